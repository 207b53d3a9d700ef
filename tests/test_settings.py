"""Settings: every one has a meaning, and a wrong value stops the program before anything starts."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from jobs import settings as settings_module
from jobs.settings import (
    PREFIX,
    Settings,
    SettingsError,
    check_describer,
    check_encoder,
    check_joint,
    check_media,
    check_registry,
    load,
    load_or_exit,
    no_settings,
    rows,
)
from model.interest import EXCLUDE_S, FOREVER, Rules
from scripts import options
from scripts.processes import Place

ROOT = Path(__file__).parent.parent

WRONG = {
    "more interests than a user's bytes can number": (
        ["--max_interests", "129"],
        "--max_interests=129: Expected `int` <= 128 (max_interests: interests kept for a user; default 6)",
    ),
    "more than a record of Kafka's": (
        ["--max_event_bytes", "1000001"],
        (
            "--max_event_bytes=1000001: Expected `int` <= 1000000 "
            "(max_event_bytes: a larger record on `events` or `items` is rejected, bytes; default 65536)"
        ),
    ),
    "more rows than a call may have": (
        ["--micro_batch", "4097"],
        (
            "--micro_batch=4097: Expected `int` <= 4096 "
            "(micro_batch: most rows in one call of a vectorised UDF; default 256)"
        ),
    ),
    "no number": (["--k", "x"], "--k=x: Expected `int`, got `str` (k: items in a list; default 20)"),
    "a fraction": (["--k", "3.5"], "--k=3.5: Expected `int`, got `str` (k: items in a list; default 20)"),
    "too small": (["--k", "0"], "--k=0: Expected `int` >= 1 (k: items in a list; default 20)"),
    "too large": (["--k=1001"], "--k=1001: Expected `int` <= 1000 (k: items in a list; default 20)"),
    "no value": (["--k"], "--k: a value is wanted after it (k: items in a list; default 20)"),
    "a seed that no random generator takes": (
        ["--seed", "20260101123456"],
        "--seed=20260101123456: Expected `int` <= 4294967295 (seed: seed of the learner's random numbers; default 0)",
    ),
    "a device of the learner that torch does not know": (
        ["--learner_device", "cuda:x"],
        (
            "--learner_device=cuda:x: no such text "
            "(learner_device: where the learner learns and judges: auto, cpu, cuda, cuda:1; default auto)"
        ),
    ),
    "a device that torch does not know": (
        ["--device", "gpu0"],
        "--device=gpu0: no such text (device: where torch runs: auto, cpu, cuda, cuda:1; default auto)",
    ),
    "text that is none": (
        ["--k", "\udcff"],
        "--k=\\udcff: text that can be printed is wanted (k: items in a list; default 20)",
    ),
    "a port that is none": (
        ["--bootstrap_servers", "kafka:9092,a:b"],
        (
            "--bootstrap_servers=kafka:9092,a:b: no such text"
            " (bootstrap_servers: Kafka brokers, host:port, comma separated; default 127.0.0.1:9092)"
        ),
    ),
    "what would end a text in Flink's SQL": (
        ["--topic_prefix", "a'b"],
        (
            "--topic_prefix=a'b: no such text (topic_prefix: put before every topic's name; "
            "model versions and replicas then lie in a folder of this name; default )"
        ),
    ),
    "no folder": (
        ["--registry="],
        (
            "--registry=: Expected `str` of length >= 1"
            " (registry: where model versions are kept: a folder or any fsspec address; default /tmp/headrace/registry)"
        ),
    ),
    "more than the JVM counts": (
        ["--fine_tune_every", "2147483648"],
        (
            "--fine_tune_every=2147483648: Expected `int` <= 2147483647"
            " (fine_tune_every: examples after which a fine-tuning is requested; default 2000)"
        ),
    ),
    "thousands of digits": (
        ["--k", "9" * 5_000],
        f"--k={'9' * 100}…: Integer value out of range (k: items in a list; default 20)",
    ),
    "not above 0": (
        ["--half-life-s", "0"],
        (
            "--half-life-s=0: Expected `float` > 0.0"
            " (half_life_s: an interest's weight halves in this time, seconds; default 604800.0)"
        ),
    ),
    "not a number": (
        ["--gate_tolerance", "nan"],
        (
            "--gate_tolerance=nan: Expected `float` >= 0.0"
            " (gate_tolerance: standard errors of NDCG@10 by which a candidate may trail; default 1.0)"
        ),
    ),
    "none of the choices": (
        ["--delivery", "maybe"],
        (
            "--delivery=maybe: no such choice; there are at-least-once, exactly-once"
            " (delivery: at-least-once is fresh; exactly-once shows lists at the next checkpoint;"
            " default at-least-once)"
        ),
    ),
}


@pytest.mark.parametrize("argv, message", WRONG.values(), ids=WRONG)
def test_a_wrong_value_is_told_with_what_was_wanted(argv, message):
    """What, which value, what was wanted, the meaning and the default."""
    with pytest.raises(SettingsError) as wrong:
        load(argv, {})

    assert message == str(wrong.value)


def test_a_wrong_variable_is_named_as_it_was_set():
    """The environment's message carries the variable's own name."""
    with pytest.raises(SettingsError) as wrong:
        load([], {"HEADRACE_LAST_N": "256"})

    assert "HEADRACE_LAST_N=256: Expected `int` <= 255 (last_n: events kept for a user; default 20)" == str(wrong.value)


def test_an_unknown_name_is_told_with_the_names_there_are():
    """A typing error on the command line never passes in silence."""
    with pytest.raises(SettingsError) as wrong:
        load(["--nope", "1"], {})

    what, _, there_are = str(wrong.value).partition(": no such setting; there are ")

    assert "--nope=1" == what
    assert list(Settings.__struct_fields__) == there_are.split(", ")


NEARLY = [("half_life", "half_life_s"), ("lastn", "last_n"), ("bootstrap", "bootstrap_servers"), ("seeds", "seed")]


@pytest.mark.parametrize("name, meant", NEARLY)
def test_a_name_that_is_nearly_a_setting_is_told_with_the_one_that_was_meant(name, meant):
    """On the command line and in the environment."""
    for argv, environ in (([f"--{name}", "1"], {}), ([], {PREFIX + name.upper(): "1"})):
        with pytest.raises(SettingsError, match=f"=1: no such setting; did you mean {meant}\\? there are "):
            load(argv, environ)


OF_KUBERNETES = [
    "HEADRACE_SERVICE_HOST", "HEADRACE_SERVICE_PORT", "HEADRACE_SERVICE_PORT_HTTP", "HEADRACE_PORT",
    "HEADRACE_PORT_8080_TCP", "HEADRACE_PORT_8080_TCP_PROTO", "HEADRACE_PORT_8080_TCP_PORT",
    "HEADRACE_PORT_8080_TCP_ADDR", "HEADRACE_REGISTRY_PORT", "HEADRACE_REGISTRY_SERVICE_HOST",
    "HEADRACE_LEARNER_PORT_9000_UDP",
]  # fmt: skip


def test_variables_that_are_no_settings_are_passed_over_with_one_warning(capsys):
    """Kubernetes sets them where a Service is called `headrace`, or `headrace-registry`."""
    settings = load_or_exit(
        [], dict.fromkeys([*OF_KUBERNETES, "HEADRACE_VERSION"], "tcp://10.0.0.7:8080") | {"HEADRACE_K": "3"}
    )
    out, err = capsys.readouterr()

    assert Settings(k=3) == settings
    assert (
        f"headrace: warning: passed over, for they are no settings: {', '.join([*OF_KUBERNETES, 'HEADRACE_VERSION'])}\n"
        == err
    )
    assert "" == out


@pytest.mark.parametrize("name", Settings.__struct_fields__)
def test_every_setting_is_read_from_the_environment(name):
    """None is taken for a variable of Kubernetes."""
    assert [] == no_settings({PREFIX + name.upper(): "1"})


def test_an_encoder_at_a_path_where_nothing_is_stops_the_program(capsys, tmp_path):
    """If the program reads it. A name of the hub is not looked up, and a folder with a model passes."""
    missing, empty = "no such folder here", "there is no config.json in this folder"
    for folder, why in (("/nowhere", missing), ("./nowhere", missing), (str(tmp_path), empty)):
        with pytest.raises(SystemExit) as stopped:
            load_or_exit(["--encoder", folder], {}, "", check_encoder)
        assert 2 == stopped.value.code
        expected = (
            f"headrace: --encoder {folder}: {why}; the folder of a model or a name of Hugging Face's hub is wanted\n"
        )
        assert expected == capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"hidden_size": 8}')
    (tmp_path / "model.safetensors").touch()
    assert Settings().encoder == load_or_exit([], {}, "", check_encoder).encoder
    assert str(tmp_path) == load_or_exit(["--encoder", str(tmp_path)], {}, "", check_encoder).encoder
    assert "/nowhere" == load_or_exit(["--encoder", "/nowhere"], {}).encoder


# What is said before anything starts

PROGRAMS = {
    "jobs/recommend.py": ["flink run -py jobs/recommend.py", "--half_life_s"],
    "jobs/finetune.py": ["python jobs/finetune.py", "--half_life_s"],
    "scripts/bench.py": ["--scoring", "--only SECTION"],
    "scripts/compare.py": ["--quick", "--only", "confluent_kafka"],
    "scripts/models.py": ["rollback", "--half_life_s"],
    "scripts/stack.py": ["up [PART ...]", "--half_life_s", "STACK_TASKMANAGERS"],
    "scripts/replay.py": ["--speed", "--half_life_s"],
    "scripts/evaluate.py": ["--baselines", "--half_life_s"],
    "serving.app": ["--port", "--half_life_s"],
}
LONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("torch", "pyflink", "pandas", "transformers")))
sys.argv = sys.argv[1:]
"""


def start(program: str, *words: str) -> subprocess.CompletedProcess:
    """Run a program where torch, Flink, pandas and transformers cannot be imported and Java is not found."""
    run = (
        f"runpy.run_path({program!r}, run_name='__main__')"
        if "/" in program
        else f"runpy.run_module({program!r}, run_name='__main__')"
    )
    environ = {"PATH": "/nowhere", "PYTHONPATH": str(ROOT), "HOME": os.environ.get("HOME", "/")}
    command = [sys.executable, "-c", LONE + run, program, *words]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("word", ["--help", "-h"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_help_is_there_at_once(program, word):
    """Usage and settings on stdout, exit code 0; nothing heavy is imported and nothing is started."""
    done = start(program, word)

    assert (0, "") == (done.returncode, done.stderr)
    assert [] == [wanted for wanted in PROGRAMS[program] if wanted not in done.stdout]


@pytest.mark.parametrize(
    "words", [["--json", "/nowhere/x.json"], ["--json", "/"], ["--speed", "0"], ["--events", "e.csv"]]
)
def test_a_wrong_option_of_the_replay_ends_it_before_anything_starts(words):
    done = start("scripts/replay.py", *([] if "--events" in words else ["--data", "ml-100k"]), *words)

    assert (2, "") == (done.returncode, done.stdout)
    assert words[-1] in done.stderr or "--items FILE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_file_that_cannot_be_written_ends_the_evaluation_before_the_work(capsys, option, tmp_path):
    """Also where the option has no value."""
    for words in ([option, "/nowhere/x"], [option, str(tmp_path)], [option]):
        with pytest.raises(SystemExit) as stopped:
            options.evaluate(words, "")
        assert 2 == stopped.value.code
    said = capsys.readouterr().err

    assert f"{option}: /nowhere/x: there is no such folder: /nowhere" in said
    assert f"{option}: {tmp_path}: cannot be written; a file is wanted" in said


WRONG = {
    "--only fast": "--only: no section fast; there are parts, scoring, learning, compression, joint, systems",
    "--scoring --items many": "--items many: whole numbers are wanted, comma separated",
    "--scoring --micro-batches 0": "--micro-batches 0: numbers of 1 or more are wanted",
    "--threads 0": "--threads 0: 1 or more is wanted",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_measures_speed_refuses_what_cannot_be_meant(words):
    """Before it runs for minutes."""
    done = start("scripts/bench.py", *words.split())

    assert (2, f"headrace: {WRONG[words]}\n") == (done.returncode, done.stderr)


@pytest.mark.parametrize("variable, default, meaning", Place.rows())
def test_every_variable_of_a_stack_has_a_meaning(variable, default, meaning):
    assert variable.startswith("STACK_") and len(meaning) > 10


def test_the_command_line_comes_before_the_environment_before_the_default():
    """Each setting is looked up on its own."""
    settings = load(["--k", "5"], {"HEADRACE_K": "6", "HEADRACE_LAST_N": "7"})

    assert (5, 7, Settings().max_interests) == (settings.k, settings.last_n, settings.max_interests)


@pytest.mark.parametrize("argv", [["--half-life-s", "60"], ["--half_life_s", "60"], ["--half-life-s=60"]])
def test_a_setting_may_be_written_in_any_usual_way(argv):
    """Dashes or underscores, a space or an equals sign."""
    assert 60.0 == load(argv, {}).half_life_s


WANTED = (
    ": ACTION:TIME is wanted, as purchase:30d; actions are cart, click, dislike, like, purchase, rating, skip, view, "
    "times forever or a number and one of d, h, m, s (default dislike:forever,skip:forever,rating:forever,purchase:30d)"
)


def test_int8_on_a_gpu_is_refused_with_what_is_wanted():
    """Neither setting is wrong alone, wherever each comes from."""
    with pytest.raises(SettingsError) as wrong:
        load(["--encoder_precision", "int8"], {"HEADRACE_DEVICE": "cuda:1"})

    assert (
        "encoder_precision=int8 and device=cuda:1: in int8 the language model runs on the CPU: "
        "device auto or cpu is wanted, or float16, which a GPU is fast at"
    ) == str(wrong.value)
    assert "int8" == load(["--encoder_precision", "int8"], {}).encoder_precision


CHOICES = {
    name: get_args(get_args(hint)[0])
    for name, hint in get_type_hints(Settings, include_extras=True).items()
    if get_origin(get_args(hint)[0]) is Literal
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_that_is_none_is_told_with_those_there_are(name):
    """However long it is."""
    for value, shown in (("some", "some"), ("x" * 1_000_000, "x" * 100 + "…")):
        with pytest.raises(SettingsError) as wrong:
            load([f"--{name}", value], {})
        wanted = f"--{name}={shown}: no such choice; there are {', '.join(CHOICES[name])} ({name}: "
        assert wanted == str(wrong.value)[: len(wanted)]
        assert len(str(wrong.value)) < 600


@pytest.mark.parametrize("value", ["0", "-1", "0.0009", "100.1", "1e9", "inf", "nan"])
def test_how_much_media_count_is_bounded(value):
    with pytest.raises(SettingsError, match=rf"^--media_scale={value}: Expected `float` [<>]= (0\.001|100\.0) \("):
        load(["--media_scale", value], {})

    assert 0.001 == load(["--media_scale", "0.001"], {}).media_scale


MODELS = {
    "encoder": (check_encoder, {}, "the folder of a model or a name of Hugging Face's hub is wanted"),
    "joint_encoder": (check_joint, {"joint_first": 3}, "the folder of an encoder with its tokenizer"),
    "describer": (check_describer, {"describe_first": 3}, "the folder of a causal language model with its tokenizer"),
    "image_encoder": (check_media, {"media_prefix": "/"}, "efficientnet-lite0, none, the folder of a model with its"),
    "audio_encoder": (check_media, {"media_prefix": "/"}, "log-mel, none, the folder of a model with its"),
}


@pytest.mark.parametrize("setting", MODELS)
def test_a_model_that_is_none_is_told_by_its_setting_before_the_start(setting, tmp_path, monkeypatch):
    """A typing error in a name, a folder without a model: which setting, which value, what is wanted."""
    check, on, wanted = MODELS[setting]
    monkeypatch.setattr(settings_module, "find_spec", lambda name: object())
    monkeypatch.setattr(settings_module, "_not_to_be_had", lambda name: "Hugging Face's hub has no such model")
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    for file in ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / "broken" / file).write_text("{")
    values = {
        "nosuch": "no such folder here, and Hugging Face's hub has no such model",
        "some/no-such": "no such folder here, and Hugging Face's hub has no such model",
        "a/b/c": "no such folder here",
        "two words": "no such folder here",
        "/nowhere": "no such folder here",
        str(tmp_path): "there is no config.json in this folder",
        str(tmp_path / "file"): "that is a file",
        str(tmp_path / "broken"): "its config.json cannot be read: Input data was truncated",
    }
    for value, why in values.items():
        with pytest.raises(SettingsError) as refused:
            check(Settings(**on, **{setting: value}))
        assert f"--{setting} {value}: {why}; {wanted}" in str(refused.value)


def test_a_name_is_one_that_the_hub_has_or_this_machine_keeps(monkeypatch):
    """Where the hub cannot be asked that is the reason; a default is not looked up."""
    import huggingface_hub

    def refuse(*_, **__):
        raise OSError("the network is away")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    check_encoder(Settings())
    with pytest.raises(SettingsError, match=r"hub cannot be asked for it \(the network is away\); the folder"):
        check_encoder(Settings(encoder="some/model"))
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    check_encoder(Settings(encoder="some/model"))


def test_an_encoder_that_is_nearly_a_built_in_one_is_told_with_that():
    with pytest.raises(SettingsError, match=r"; did you mean efficientnet-lite0\?"):
        check_media(Settings(media_prefix="/", image_encoder="efficient net-lite0"))


@pytest.mark.parametrize("setting, check", [("media_prefix", check_media), ("registry", check_registry)])
def test_an_address_that_nothing_reads_is_refused_before_the_start(setting, check, monkeypatch):
    """An unknown scheme, one whose package is not here, and a folder by an address."""
    import fsspec

    def missing(scheme):
        raise ImportError("Install s3fs to access S3")

    for value, why in (("foo://x", "fsspec knows no foo://; "), ("local:///srv", "a folder is given by its path; ")):
        with pytest.raises(SettingsError) as refused:
            check(Settings(**{setting: value}))
        assert f"--{setting} {value}: {why}" in str(refused.value)
    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(SettingsError, match=r"a package is missing on this machine: Install s3fs to access S3"):
        check(Settings(**{setting: "s3://bucket/path"}))


def test_int8_without_its_packages_is_refused_before_anything_starts(monkeypatch):
    """Those that are missing are named, and how to get them; no other precision needs them."""
    monkeypatch.setattr(settings_module, "find_spec", lambda name: None if name != "onnx" else object())
    check_encoder(load(["--encoder_precision", "bfloat16"], {}))
    with pytest.raises(SettingsError, match=r"^encoder_precision=int8: onnxruntime, onnxscript cannot be imported"):
        check_encoder(load(["--encoder_precision", "int8"], {}))


def test_how_long_an_item_is_left_out_is_set_by_action():
    """In days, hours, minutes, seconds or for ever; what is not named may come again at once; with nothing, all may."""
    text = "dislike:forever, purchase:30d,like:12h, view:5m,skip:90s"
    seconds = {"dislike": FOREVER, "purchase": 30 * 86_400, "like": 12 * 3_600, "view": 300, "skip": 90}

    assert seconds == load(["--exclude-after", text], {}).rules().exclude_s
    assert {} == load(["--exclude-after", ""], {}).rules().exclude_s
    assert EXCLUDE_S == load([], {}).rules().exclude_s


@pytest.mark.parametrize(
    "part",
    [
        "purchase",
        "purchase:",
        "purchase:30",
        "purchase:d",
        "purchase:-3d",
        "purchase:1.5d",
        "purchase:30w",
        "search:1d",
        "hop:1d",
        ":1d",
        "view:never",
    ],
)
def test_a_wrong_time_of_leaving_out_is_told_with_what_was_wanted(part):
    """Which part of it is wrong, which actions and units there are, and the default."""
    with pytest.raises(SettingsError) as wrong:
        load([], {"HEADRACE_EXCLUDE_AFTER": f"skip:1d,{part}"})

    assert f"exclude_after=skip:1d,{part}: {part}{WANTED}" == str(wrong.value)


@pytest.mark.parametrize(
    "text, ends",
    [("1-5", (1, 5)), ("0.5-10", (0.5, 10)), ("-1-1", (-1, 1)), ("-5--1", (-5, -1)), ("0-1000", (0, 1_000))],
)
def test_the_scale_of_ratings_is_its_lowest_and_its_highest(text, ends):
    assert ends == load(["--rating-scale", text], {}).rules().rating_scale


@pytest.mark.parametrize(
    "text", ["", "5", "15", "5-1", "5-5", "1-", "-5", "one-five", "nan-5", "1-inf", "1-1001", "1 to 5"]
)
def test_a_wrong_scale_is_told_with_what_was_wanted(text):
    with pytest.raises(SettingsError) as wrong:
        load([f"--rating-scale={text}"], {})

    assert (
        f"rating_scale={text}: the lowest and the highest rating are wanted, from -1000 to 1000 (default 1-5)"
        == str(wrong.value)
    )


def test_the_rules_are_those_that_were_set():
    """A setting of a user's state reaches the record that job and evaluation work by; both have the same defaults."""
    set_to = {"max_interests": 2, "last_n": 3, "half_life_s": 4.0, "merge_similarity": 0.6, "max_consumed": 7}
    rules = Settings(**set_to, rating_scale="0-2", exclude_after="view:8s").rules()

    assert Rules(**set_to, rating_scale=(0.0, 2.0), exclude_s={"view": 8.0}) == rules
    assert Rules() == Settings().rules()


def test_a_value_may_hold_an_equals_sign_and_may_be_empty():
    """Only the first `=` parts a name from its value."""
    settings = load(["--registry=s3://bucket/a=b", "--topic-prefix", ""], {})

    assert ("s3://bucket/a=b", "") == (settings.registry, settings.topic_prefix)


def test_other_variables_are_none_of_our_business():
    """Only names that start with HEADRACE_ are read."""
    assert Settings() == load([], {"K": "0", "PATH": "/bin", "headrace_k": "0"})


def test_a_wrong_setting_stops_the_program_with_exit_code_2(capsys):
    """The message goes to stderr, one line, and no stack trace."""
    with pytest.raises(SystemExit) as stopped:
        load_or_exit(["--k", "0"], {})

    out, err = capsys.readouterr()

    assert (2, "") == (stopped.value.code, out)
    assert "headrace: --k=0: Expected `int` >= 1 (k: items in a list; default 20)\n" == err


def test_right_settings_pass_in_silence(capsys):
    """Nothing is printed."""
    assert Settings(k=3) == load_or_exit(["--k", "3"], {})
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize("name, default, meaning", rows(), ids=Settings.__struct_fields__)
def test_every_setting_has_a_meaning_and_a_default_that_is_valid(name, default, meaning):
    """The default, given as text, passes its own check and changes nothing."""
    assert len(meaning) > 10
    assert Settings() == load([f"--{name}", default], {})


def test_settings_cannot_be_changed():
    """They are one frozen record."""
    with pytest.raises(AttributeError):
        Settings().k = 3


def test_every_topic_carries_the_prefix():
    """Two installations can share one Kafka."""
    assert "test-events" == Settings(topic_prefix="test-").topic("events")


def test_every_prefix_has_its_own_registry_and_replicas():
    """Two installations can share one registry and one machine; without a prefix nothing is added."""
    shop = Settings(topic_prefix="shop-", registry="s3://bucket/models/", replica_dir="/var/headrace")
    alone = Settings(registry="s3://bucket/models/", replica_dir="/var/headrace")

    assert ("s3://bucket/models/shop-", "/var/headrace/shop-") == (shop.registry_path, shop.replica_path)
    assert ("s3://bucket/models/", "/var/headrace") == (alone.registry_path, alone.replica_path)
    assert "/shop-" == Settings(topic_prefix="shop-", registry="/").registry_path


@pytest.mark.parametrize(
    "prefix",
    [".", "..", "../", "a/b", "/", "a b", "a\n", "ä", "'", "x" * 201, "v00001", "counts-1", "statistics-000001"],
)
def test_a_prefix_is_the_beginning_of_a_topic_and_the_name_of_a_folder(prefix):
    """It leads out of no folder, is no version's, and holds only what Kafka takes."""
    with pytest.raises(SettingsError, match="topic_prefix: put before every topic's name"):
        load(["--topic_prefix", prefix], {})


@pytest.mark.parametrize("prefix", ["", "shop-", "eu.shop_2.", "...", "v2-"])
def test_a_prefix_may_be_whatever_kafka_takes(prefix):
    """Dots and numbers too."""
    assert prefix == load(["--topic_prefix", prefix], {}).topic_prefix
