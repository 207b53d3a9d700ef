"""What is known of users: followed from `users`, where `user_facts` is on.

The topic is compacted and read from its beginning by each worker and the learner: what they hold is one `Facts`.
"""

from collections import deque
from collections.abc import Sequence

from kafka.consumer.fetcher import ConsumerRecord

from model.facts import Facts
from model.schema import InvalidRecord, Rejected, decode_user
from udfs.follow import TopicFollower

MOST_REJECTED = 100
"""So many of the newest refused records wait to be told."""


class UsersFollower:
    """`facts` of users, read up to the topic's end when made, then followed by a thread.

    Attributes:
        rejected: the newest records that are no user; whoever tells them takes them out.
    """

    def __init__(self, bootstrap_servers: str, topic: str, max_bytes: int = 1_000_000) -> None:
        self.facts = Facts()
        self.rejected: deque[Rejected] = deque(maxlen=MOST_REJECTED)
        self._max_bytes = max_bytes
        self._follower = TopicFollower(
            bootstrap_servers, topic, "", {}, take=self.take, restart=lambda source: self.facts.clear()
        )
        self._follower.reached_end.wait()

    def take(self, records: Sequence[ConsumerRecord]) -> None:
        """Take over records of `users`."""
        for record in records:
            try:
                user = decode_user(record.value, record.key, self._max_bytes)
            except InvalidRecord as error:
                refused = Rejected.of("users", record.partition, record.offset, str(error), record.value)
                self.rejected.append(refused)
                continue
            if user.deleted:
                self.facts.forget(user.user_id)
            else:
                self.facts.put(user.user_id, user.attributes)

    def close(self) -> None:
        self._follower.close()
