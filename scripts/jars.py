"""Java, and what it runs: the jars that Maven fetches, a Flink home made of them, the configuration of Kafka and Flink.

`.headrace/jars/` holds a folder for each folder named in flink-conf/jars.txt; it is filled once.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from scripts.processes import ROOT, Place, StackError

CONF = ROOT / "flink-conf"
JARS = ROOT / ".headrace" / "jars"
JAVA = 17
FREE_GB = 2


def check_java() -> None:
    """Raise StackError where Java, Maven or room on the disk is missing."""
    java_command()
    if shutil.which("mvn") is None and not fetched():
        raise StackError("no Maven here: mvn fetches Kafka's jars; install it (Debian: apt-get install maven)")
    free_gb = shutil.disk_usage(ROOT).free / 2**30
    if free_gb < FREE_GB:
        raise StackError(f"{free_gb:.1f} GB free in {ROOT}: {FREE_GB} GB are wanted; free some space")


def java_command() -> str:
    """The Java that Flink's scripts take: JAVA_HOME's, or the one on the PATH.

    Raises:
        StackError: there is none, or it is too old.
    """
    java = shutil.which("java", path=os.path.join(os.environ.get("JAVA_HOME") or "/none", "bin")) or shutil.which(
        "java"
    )
    hint = (
        f"Java {JAVA} or newer is wanted (Debian: apt-get install openjdk-17-jdk-headless), on the PATH or as JAVA_HOME"
    )
    if java is None:
        raise StackError(f"no Java here: {hint}")
    says = subprocess.run([java, "-version"], capture_output=True, text=True).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', says)
    if version is None or int(version[1]) < JAVA:
        raise StackError(f"{java} is version {version[1] if version else 'unknown'}: {hint}")
    return java


def kafka_command(main: str) -> list[str]:
    """The command line of one of Kafka's programs."""
    return [
        java_command(),
        "-Xmx512m",
        "-XX:TieredStopAtLevel=1",
        "-XX:+UseSerialGC",
        "-Dlog4j2.level=INFO",
        "-cp",
        f"{JARS / 'kafka'}/*",
        main,
    ]


# The lists in flink-conf/, and the jars


def topics() -> dict[str, tuple[int, dict[str, str]]]:
    """Topic -> (partitions, configuration), as flink-conf/topics.txt says."""
    return {
        name: (int(partitions), dict(option.split("=") for option in options))
        for name, partitions, *options in _rows("topics.txt")
    }


def jars() -> list[tuple[str, str]]:
    """(folder, group:artifact:version) of flink-conf/jars.txt."""
    return [(folder, coordinate) for folder, coordinate in _rows("jars.txt")]


def _rows(file: str) -> list[list[str]]:
    lines = (line.partition("#")[0].split() for line in (CONF / file).read_text().splitlines())
    return [line for line in lines if line]


def fetch_jars() -> None:
    """Fetch what flink-conf/jars.txt lists, with all that it needs, unless it is there."""
    if fetched():
        return
    shutil.rmtree(JARS, ignore_errors=True)
    for folder in dict(jars()):
        _fetch(folder, [coordinate for each, coordinate in jars() if each == folder])
    (JARS / "jars.txt").write_text((CONF / "jars.txt").read_text())


def fetched() -> bool:
    """Whether the jars of today's list are there."""
    done = JARS / "jars.txt"
    return done.exists() and done.read_text() == (CONF / "jars.txt").read_text()


def _fetch(folder: str, coordinates: list[str]) -> None:
    """Let Maven fill a folder: it copies what a project of that name would need to run."""
    target = JARS / folder
    target.mkdir(parents=True)
    wanted = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *coordinate.split(":")
        )
        for coordinate in coordinates
    )
    (target / "pom.xml").write_text(
        "<project><modelVersion>4.0.0</modelVersion><groupId>headrace</groupId>"
        f"<artifactId>{folder}</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{wanted}</dependencies></project>"
    )
    command = ["mvn", "-q", "-B", "-f", str(target / "pom.xml"), "dependency:copy-dependencies"]
    options = ["-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-10:])
        raise StackError(f"{', '.join(coordinates)}: Maven could not fetch them; is the network there?\n{last}")


# Flink's home, and what is configured


def make_flink_home(home: Path, conf: Path) -> None:
    """Make a Flink home from the wheel and the jars, unless there is one, and put its logging rules into `conf`."""
    wheel = Path(find_spec("pyflink").submodule_search_locations[0])
    if not home.exists():
        # A copy, because Flink's scripts follow a symbolic link back to the wheel; hard links make it cheap.
        for folder in ("bin", "lib", "opt", "plugins"):
            shutil.copytree(wheel / folder, home / folder, copy_function=_link)
        # In lib/, Python is loaded once for all jobs; from opt/, the second job in a TaskManager fails.
        for jar in [*(wheel / "opt").glob("flink-python*.jar"), *(JARS / "flink").glob("*.jar")]:
            _link(jar, home / "lib" / jar.name)
    for file in (wheel / "conf").glob("log4j*.properties"):
        shutil.copy(file, conf)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def flink_config(place: Place) -> dict[str, str | int]:
    """flink-conf/config.yaml and what depends on the place."""
    from ruamel.yaml import YAML

    run_dir = Path(place.run_dir).resolve()
    gpus = {"external-resources": "gpu", "external-resource.gpu.amount": place.gpus} if place.gpus else {}
    return (
        YAML(typ="safe").load(CONF / "config.yaml")
        | {
            "jobmanager.rpc.address": place.flink_host,
            "jobmanager.rpc.port": place.rpc_port,
            "jobmanager.bind-host": place.bind,
            "rest.address": place.flink_host,
            "rest.port": place.flink_port,
            "rest.bind-address": place.bind,
            "web.access-control-allow-origin": f"http://{place.flink_host}:{place.flink_port}",
            "taskmanager.host": "127.0.0.1"
            if place.bind == "127.0.0.1"
            else socket.gethostbyname(socket.gethostname()),
            "taskmanager.bind-host": place.bind,
            "execution.checkpointing.dir": (run_dir / "checkpoints").as_uri(),
            "io.tmp.dirs": str(run_dir / "tmp"),
            "python.executable": sys.executable,
            "python.client.executable": sys.executable,
        }
        | gpus
    )


def broker_config(place: Place) -> str:
    """flink-conf/server.properties and what depends on the place."""
    controller = f"{place.kafka_host}:{place.controller_port}"
    return (CONF / "server.properties").read_text() + (
        f"log.dirs={Path(place.run_dir).resolve() / 'kafka'}\n"
        f"listeners=PLAINTEXT://{place.bind}:{place.kafka_port},CONTROLLER://{place.bind}:{place.controller_port}\n"
        f"advertised.listeners=PLAINTEXT://{place.kafka_host}:{place.kafka_port},CONTROLLER://{controller}\n"
        f"controller.quorum.bootstrap.servers={controller}\n"
    )
