"""Learning at scale: several processes, steps in parts, half precision, what is left after a kill."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs.settings import Settings, SettingsError, load
from model.finetune import Learner
from model.learning import state
from model.learning.config import TrainingConfig
from model.schema import Example, StateError
from model.score import Scorer
from scripts import learn, options
from tests import learning_process
from tests.learning_process import CONFIG
from tests.test_learner import World, topic  # noqa: F401 (a fixture)
from tests.test_sequences import windows, world  # noqa: F401 (a fixture)

ROOT = Path(__file__).parent.parent
CLOSE = 0.05
"""Between the scores of versions whose gradients were added in another order: many steps of Adam carry it on."""


def by_processes(count: int, out: Path) -> dict:
    """What so many processes learn of the small world."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*start, str(ROOT / "tests" / "learning_process.py"), str(out)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr[-2_000:]
    return torch.load(out)


@pytest.fixture(scope="module")
def alone() -> tuple[Learner, Scorer]:
    """What one process learns."""
    torch.set_num_threads(1)
    catalogue, examples = learning_process.world()
    learner = Learner(catalogue, config=CONFIG)
    return learner, learning_process.learn(learner, catalogue, examples)


def test_two_processes_make_the_version_of_one(tmp_path, alone):
    """Bit for bit: with what goes on from it, after items came, a user was forgotten and another version served."""
    learner, scorer = alone
    two = by_processes(2, tmp_path / "two.pt")
    tensors, about = learner.training()

    assert scorer.state_dict().keys() == two["scorer"].keys()
    assert [] == [name for name, one in scorer.state_dict().items() if not torch.equal(one, two["scorer"][name])]
    assert [] == [name for name, one in tensors.items() if not torch.equal(one, two["training"][name])]
    assert about["random"] == two["random"]


def test_three_processes_add_gradients_in_another_order(tmp_path, alone):
    """Two of them share the windows of every step: the network is the same but for roundings."""
    _, scorer = alone
    three = by_processes(3, tmp_path / "three.pt")["scorer"]
    mine = {name: one for name, one in scorer.state_dict().items() if name.startswith("network.")}
    apart = {name: float((one - three[name]).abs().max()) for name, one in mine.items()}

    assert max(apart.values()) < CLOSE, apart
    assert any(apart.values())  # otherwise nothing was shared


def test_parts_of_a_step_are_the_step(world):  # noqa: F811
    """Four parts, one after the other: the same loss and gradients, dropout included."""
    trainer, items = world
    found = []
    for parts in (1, 4):
        trainer.config = replace(TrainingConfig(), accumulate=parts)
        trainer._random = np.random.default_rng(7)
        torch.manual_seed(7)
        trainer._network.train().zero_grad()
        losses = []
        for loss in trainer._losses(items, windows()):
            loss.backward()
            losses.append(loss.item())
        drawn = torch.rand(1).item()
        gradients = torch.cat([one.grad.flatten() for one in trainer._network.parameters()])
        found.append((len(losses), sum(losses), gradients, drawn))
    trainer._network.eval()
    trainer.config = TrainingConfig()
    (one, whole, gradient, after), (four, summed, same, also) = found

    assert (1, 4) == (one, four)
    assert summed == pytest.approx(whole, rel=1e-5)
    assert torch.allclose(gradient, same, rtol=1e-3, atol=1e-6)
    assert after == also


def test_half_precision_is_of_the_steps_alone(world):  # noqa: F811
    """The loss moves by a rounding, and gradients stay those of float32 weights."""
    trainer, items = world
    losses = {}
    for precision in ("float32", "bfloat16"):
        trainer.config = replace(TrainingConfig(), precision=precision)
        trainer._random = np.random.default_rng(7)
        losses[precision] = next(trainer._losses(items, windows()))
        losses[precision].backward()
    trainer.config = TrainingConfig()

    assert losses["bfloat16"].item() != losses["float32"].item()
    assert losses["bfloat16"].item() == pytest.approx(losses["float32"].item(), rel=0.02)
    assert {torch.float32} == {one.grad.dtype for one in trainer._network.parameters() if one.grad is not None}


def source() -> learn.Source:
    return learn.Source("small", *learning_process.world())


SETTINGS = Settings(fine_tune_every=200)


def run(given: learn.Source, folder: str | None, steps: int = 100) -> Scorer:
    """The command, up to so many steps: then it is killed."""
    learner, done = learn.begin(given, SETTINGS, folder)
    scorer = learner.scorer
    while done < len(given.examples) and steps:
        scorer = learn.step(given, learner, done, folder, SETTINGS)
        done, steps = done + SETTINGS.fine_tune_every, steps - 1
    return scorer


def test_after_a_kill_it_goes_on_as_if_there_had_been_none(tmp_path):
    """The version is the same, bit for bit; also where the newest state was half written."""
    whole, folder = run(source(), None), str(tmp_path)
    run(source(), folder, steps=2)
    (tmp_path / "training-000002" / "model.safetensors").write_bytes(b"half")
    resumed = run(source(), folder)

    assert [] == [name for name, one in whole.state_dict().items() if not torch.equal(one, resumed.state_dict()[name])]
    assert 2 == len(list(tmp_path.glob("training-*")))


def test_a_state_of_something_else_is_refused(tmp_path):
    """Other events, another seed, another encoder: a message says which."""
    folder = str(tmp_path)
    run(source(), folder, steps=1)
    other = source()
    other.examples[199] = Example("u1", "other", 1, "i1", "click")

    with pytest.raises(StateError, match=r"the state has last .* is wanted: give another folder"):
        learn.begin(other, SETTINGS, folder)
    with pytest.raises(StateError, match="the state has seed 0, 1 is wanted"):
        learn.begin(source(), Settings(seed=1), folder)


def test_the_learner_goes_on_with_what_was_kept_with_its_version(tmp_path, topic):  # noqa: F811
    """Moments and examples of the ranker; after a user is forgotten nothing of before is there."""
    made = World(tmp_path, learner_state="versions")
    made.take(200, "count")
    made.take(30)
    kept, about = made.learner.training()
    made.start()
    found, again = made.learner.training()

    assert "v00001" == made.current()
    assert {name for name in kept if ".mean." in name} == {name for name in found if ".mean." in name} != set()
    assert all(torch.equal(kept[name], found[name]) for name in kept if ".fresh." not in name)
    assert about["learnt"] == again["learnt"] > 0
    made.step.turn([Example("u1", "f", 99_000, forget=True)], "")
    assert [] == list(tmp_path.glob("training-*"))


def test_without_the_setting_nothing_is_kept(tmp_path, topic):  # noqa: F811
    """And a restart begins with new moments."""
    made = World(tmp_path)
    made.take(200, "count")
    made.take(30)

    assert "v00001" == made.current()
    assert [] == list(tmp_path.glob("training-*"))


def test_settings_say_how_steps_are_taken():
    """Parts, precision and processes; a wrong word is refused before anything starts."""
    given = load(["--learner_accumulate", "4", "--learner_precision", "bfloat16", "--learner_processes", "2"], {})

    assert (4, "bfloat16", 2) == (
        given.training_config().accumulate,
        given.training_config().precision,
        given.learner_processes,
    )
    assert TrainingConfig() == Settings().training_config()
    with pytest.raises(SettingsError, match="learner_precision=half"):
        load(["--learner_precision", "half"], {})


@pytest.mark.parametrize("words", [["--user_facts", "on"], ["--keywords", "3"], ["--explore", "thompson"]])
def test_what_is_not_learnt_from_files_is_refused(words):
    """A version that had learnt nothing of it would look as if it had."""
    with pytest.raises(SettingsError, match="are learnt by the job's learner"):
        learn.check_switches(load(words, {}))
    learn.check_switches(load([], {}))


def test_one_process_imports_nothing_of_the_others():
    """Without the setting nothing of torch.distributed's groups is made, and the options are read at once."""
    asked = "import sys, model.finetune; print('model.learning.leader' in sys.modules, 'peft' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert "False False\n" == done.stdout, done.stderr
    assert "learnt" == options.learn(["--data", "ml-100k"], None)[0].version
    assert state.newest("/nowhere") == (None, [])
