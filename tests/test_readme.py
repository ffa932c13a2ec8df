"""The commands of the README and the docs print what is written there, digits aside."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import examples
import pytest
import reference
from examples import DEMO, PAGES, ROOT, alike
from filelock import FileLock
from shell import Shell

README = ROOT / "README.md"
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}
SHOWN = [name for name, text in TEXTS.items() if examples.examples(text)]


@pytest.fixture(scope="session")
def demo(common_folder: Path) -> tuple[Path, str]:
    """A folder in which the demo has been run, and what it printed."""
    pytest.importorskip("skimage")
    folder, said = common_folder / "demo", common_folder / "demo.txt"
    with FileLock(common_folder / "demo.lock"):
        if not said.exists():
            folder.mkdir()
            said.write_text(examples.run(DEMO, folder), encoding="utf-8")
    return folder, said.read_text(encoding="utf-8")


def run(command: str, folder: Path) -> str:
    """What a command prints: in this process, which is faster, where it needs no shell."""
    name, *arguments = shlex.split(command)
    if arguments[:1] == ["-c"] and name == "python":
        with chdir(folder), redirect_stdout(StringIO()) as said:
            exec(arguments[1], {})
        return examples.shown(said.getvalue(), folder)
    if name != "siasearch" or set(command) & set("|<>$*"):
        return examples.run(command, folder)
    ran = Shell(folder).run(arguments)
    assert ran.returncode in (0, 1), ran.stderr  # 1: the answer is no
    return examples.shown(ran.stdout, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHOWN)
def test_a_page_shows_what_its_commands_print(
    name: str,
    demo: tuple[Path, str],
    common_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SIASEARCH_CACHE", str(common_folder / "compiled"))  # as people have it
    typed = " ".join(command for command, _ in examples.examples(TEXTS[name]))
    if "plot " in typed:
        pytest.importorskip("matplotlib")
    if "--engine milvus" in typed:
        pytest.importorskip("milvus_lite")
    monkeypatch.setenv("SIASEARCH_DEVICE", "cpu")
    outputs = examples.outputs(TEXTS[name], *demo, tmp_path / "here", run)
    for command, expected, now in outputs:
        assert alike(now, expected), f"{command} prints\n{now}\nrun: python docs/examples.py"


def test_the_readme_has_the_main_commands_and_is_short() -> None:
    commands = [command.split()[1] for command, _ in examples.examples(TEXTS["README.md"])]
    assert commands[:3] == ["demo", "add", "query"]
    assert TEXTS["README.md"].count("\n") <= 200


@pytest.mark.parametrize("name", TEXTS)
def test_no_figure_is_left_to_fill_in(name: str) -> None:
    assert "@@" not in TEXTS[name]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_and_options_that_a_page_names_exist(name: str) -> None:
    known = reference.commands()
    named = re.findall(r"^    (?:\$ )?(siasearch .*)$|`(siasearch [^`]*)`", TEXTS[name], re.M)
    for line in (indented or inline for indented, inline in named):
        for part in line.split("|")[0].split(" siasearch "):
            words = shlex.split(part.removeprefix("siasearch "), comments=True)
            if words[0].startswith("-") or words[0] == "COMMAND":
                continue
            command = known[words[0]] if words[0] in known else known[" ".join(words[:2])]
            options = {name for one in reference.parameters(command) for name in one.names()}
            given = {word for word in words[1:] if re.fullmatch(r"--?[a-z][a-z-]*", word)}
            assert given <= options | {"--help"}, line


def test_the_command_reference_is_fresh() -> None:
    written = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert written == reference.page(), "run: python docs/reference.py > docs/commands.md"


def test_the_command_reference_has_what_help_shows(capsys: pytest.CaptureFixture[str]) -> None:
    from siamese_search.cli.app import app

    for name, command in reference.commands().items():
        app([*name.split(), "--help"], standalone_mode=False)
        shown = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capsys.readouterr().out))
        names = {option for one in reference.parameters(command) for option in one.names()}
        options = {option for option in names if reference.parameters(command)}
        arguments = {f"--{one.name}" for one in reference.parameters(command) if not one.is_option}
        assert options - arguments <= shown, name
        for one in reference.parameters(command):
            assert one.info.help, (name, one.name)


@pytest.mark.parametrize("name", ["README.md", "docs/howto/python.md"])
def test_the_python_example_runs(name: str, tmp_path: Path) -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", TEXTS[name], re.DOTALL)
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    from conftest import picture

    picture(1).resize((300, 200)).save(tmp_path / "photos" / "cat" / "1.png")
    picture(1).resize((280, 210)).save(tmp_path / "new.jpg", quality=95)
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.splitlines()[0] == "1 ()"
    assert output.splitlines()[1].startswith("cat ")
