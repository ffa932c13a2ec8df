from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import picture
from shell import Shell

Pictures = Callable[..., Path]


def test_enrol_query_edit_check_from_start_to_end(
    shell: Shell, pictures: Pictures, coarse_folder: Path
) -> None:
    folder = pictures({"Greek/alpha": 2, "Greek/beta": 1, "Latin/a": 1})
    picture(9).save(folder / "loose.png")
    (report,) = shell.json("add", folder, "--encoder", shell.encoder)
    assert report == {"added": 5, "skipped": 0, "rejected": [], "identities": 4, "items": 5}
    assert (shell.folder / "indexes" / "default" / "gallery.db").exists()

    probe = shell.folder / "probe.png"
    picture(2, noise=8).save(probe)
    (answer,) = shell.json("query", probe, "--k", "2")
    assert answer.keys() == {
        *("image", "identity", "score", "confidence", "threshold", "matches", "p_value")
    }
    assert (answer["image"], answer["identity"]) == (str(probe), "Greek/beta")
    assert [match.keys() for match in answer["matches"]] == [
        {"identity", "score", "item", "path", "distractor", "closer", "metadata"}
    ] * 2
    assert answer["matches"][0]["path"] == str(folder / "Greek" / "beta" / "0.png")
    assert shell.json("query", "probe.png")[0]["image"] == "probe.png"
    (answer,) = shell.json("query", probe, "--threshold", "0.99999")
    assert answer["identity"] is None
    assert "Greek/beta" in shell("query", probe).stdout

    (answer,) = shell.json("verify", probe, folder / "Greek" / "beta" / "0.png")
    assert answer.keys() == {"same", "score", "confidence", "threshold"}
    assert answer["same"] is True
    (answer,) = shell.json("verify", probe, folder / "loose.png", code=1)
    assert answer["same"] is False

    first = shell.json("list")[0]
    assert first == {"identity": "Greek/alpha", "items": 2, "distractor": False}
    assert [item["item"] for item in shell.json("list", "Greek/alpha")] == [1, 2]
    assert shell.json("relabel", "loose", "Latin/b") == [{"relabelled": 1}]
    assert shell.json("relabel", "--item", "2", "Latin/b") == [{"relabelled": 1}]
    assert shell.json("remove", "Latin/a") == [{"removed": 1, "items": 4}]
    assert "no item 99" in shell("remove", "--item", "1", "--item", "99", code=2).stderr
    assert shell.json("remove", "--item", "1") == [{"removed": 1, "items": 3}]
    names = [(entry["identity"], entry["items"]) for entry in shell.json("list")]
    assert names == [("Greek/beta", 1), ("Latin/b", 2)]

    assert shell.json("compact")[0]["indexed"] == 3
    assert shell.json("check") == [{"ok": True, "faults": [], "changed": []}]
    (report,) = shell.json("rebuild", "--encoder", coarse_folder)
    assert report == {"switched": True, "embedded": 3, "missing": [], "items": 3}
    assert shell.json("query", probe)[0]["identity"] == "Greek/beta"
    (facts,) = shell.json("info")
    assert (facts["items"], facts["identities"], facts["dimension"]) == (3, 2, 13)
    assert "no faults" in shell("check").stdout


def test_processes_of_their_own_say_and_end_as_documented(shell: Shell, pictures: Pictures) -> None:
    separate = shell.separate
    folder = pictures({"a": 1, "b": 1})
    assert "no gallery in indexes/default" in separate("info", code=2).stderr
    (report,) = separate.json("add", folder, "--encoder", shell.encoder)
    assert report["added"] == 2
    assert separate.json("query", folder / "a" / "0.png")[0]["identity"] == "a"
    images = (folder / "a" / "0.png", folder / "b" / "0.png")
    assert "different" in separate("verify", *images, code=1).stdout


def test_rejections_are_named_and_exit_with_1(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 1})
    (folder / "a" / "notes").write_text("not a picture")
    os.mkfifo(folder / "a" / "pipe.png")
    with open(os.fsencode(folder / "a") + b"/\xff\xfe.png", "wb") as file:
        file.write((folder / "a" / "0.png").read_bytes())
    (folder / "a" / "loop").symlink_to(folder)
    result = shell("add", folder, "--encoder", shell.encoder, "--json", code=1)
    (report,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert report["added"] == 1
    assert sorted(Path(entry["path"]).name for entry in report["rejected"]) == [
        "\\xff\\xfe.png",
        "loop",
        "notes",
        "pipe.png",
    ]
    assert all(entry["reason"] for entry in report["rejected"])
    assert result.stderr.count("rejected: ") == 4
    result = shell("query", folder / "a" / "notes", folder / "a" / "0.png", "--json", code=1)
    assert [json.loads(line)["identity"] for line in result.stdout.splitlines()] == ["a"]
    assert "notes: not an image" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add"], "name images or folders"),
        (["add", "empty"], "no images in empty"),
        (["add", "nowhere"], "nowhere: no such file or folder"),
        (["add", "x.png", "--encoder", "nonsense"], "unknown encoder: 'nonsense'"),
        (["add", "x.png", "--label", " "], "cannot be an identity's name"),
        (["add", "--manifest", "nowhere.csv"], "nowhere.csv: No such file"),
        (["add", "--manifest", "x.png"], "x.png cannot be read as a CSV"),
        (["add", "--manifest", "bad.csv"], "must name the columns path and label"),
        (["add", "--manifest", "bad.csv", "--label", "x"], "use one"),
        (["add", "--manifest", "bad.csv", "--exclude", "a*"], "--exclude is about files"),
        (["embed", "--manifest", "bad.csv", "--exclude", "a", "-o", "a.npz"], "--exclude is about"),
        (["embed", "--manifest", "bad.csv", "--flat", "-o", "a.npz"], "--flat and --identity-from"),
        (["add", "--from-query", "x.png"], "name it by --label"),
        (["add", "--from-query", "nowhere.jsonl", "--label", "x"], "nowhere.jsonl: No such file"),
        (["add", "--from-query", "x.png", "--label", "x"], "x.png, line 1, is not what `siasearch"),
        (["add", "--from-query", "-", "--label", "x", "x.png"], "names the images itself"),
        (["add", "--from-query", "-", "--manifest", "bad.csv"], "names the images itself"),
        (["query", "x.png"], "no gallery in indexes/default"),
        (["query", "x.png", "--where", "shop"], "write key=value"),
        (["query", "x.png", "--where", "a=1", "--where", "a=2"], "no item has both '1' and '2'"),
        (["plot", "map", "--out", "map.jpg"], "ends in .png"),
        (["plot", "map", "--k", "3"], "--k does nothing with map"),
        (["query", "x.png", "--k", "0"], "--k"),
        (["query", "x.png", "--threshold", "7"], "--threshold"),
        (["info"], "no gallery in indexes/default"),
        (["check"], "no gallery in indexes/default"),
        (["relabel", "one"], "relabel OLD NEW"),
        (["verify", "x.png", "nowhere.png"], "nowhere.png"),
        (["rebuild", "--device", "cuda"], "no gallery"),
        (["plot", "map"], "no gallery in indexes/default"),
        (["plot", "pie"], "choose one of map, scores, det, confusions, neighbours"),
        (["plot", "map", "x.png"], "take no image"),
        (["plot", "neighbours"], "write `plot neighbours IMAGE`"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_a_line_and_exit_code_2(
    shell: Shell, arguments: list[str], message: str
) -> None:
    picture(0).save(shell.folder / "x.png")
    (shell.folder / "empty").mkdir()
    (shell.folder / "bad.csv").write_text("file,name\na.png,b\n")
    result = shell(*arguments, code=2)
    assert message in result.stderr
    assert result.stdout == ""
    assert not (shell.folder / "indexes").exists()


def test_a_manifest_labels_and_its_columns_filter(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 3})
    (folder / "list.csv").write_text(
        "\ufeffpath,label,shop\n"
        "a/0.png,Golden Delicious,north\n"
        "a/1.png,Cox,south\n"
        "a/2.png,,south\n"
        "a/9.png,Cox,north\n",
        encoding="utf-8",
    )
    (report,) = shell.json(
        "add", "--manifest", folder / "list.csv", "--encoder", shell.encoder, code=1
    )
    assert (report["added"], report["identities"]) == (2, 2)
    assert [Path(entry["path"]).name for entry in report["rejected"]] == ["2.png", "9.png"]
    (answer,) = shell.json("query", folder / "a" / "1.png", "--where", "shop=north")
    assert [match["identity"] for match in answer["matches"]] == ["Golden Delicious"]
    assert answer["matches"][0]["metadata"] == {"shop": "north"}
    assert shell.json("list", "Cox")[0]["metadata"] == {"shop": "south"}
    printed = shell("query", folder / "a" / "1.png").stdout
    assert "1.png  shop=south" in printed
    assert "0.png  shop=north" in printed
    text = "path,label,shop,year\na/1.png,Cox,west,1\n"
    (folder / "more.csv").write_text(text, encoding="utf-8")
    assert shell.json("add", "--manifest", folder / "more.csv")[0]["skipped"] == 1
    assert shell.json("list", "Cox")[0]["metadata"] == {"shop": "west", "year": "1"}


def test_the_gallery_is_chosen_by_option_or_environment(
    shell: Shell, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures({"a": 1})
    shell("add", folder, "--gallery", "mine", "--encoder", shell.encoder)
    assert shell.json("info", "-g", "mine")[0]["items"] == 1
    monkeypatch.setenv("SIASEARCH_GALLERY", "mine")
    assert shell.json("info")[0]["items"] == 1


def test_a_gallery_of_another_encoder_or_newer_format_is_refused(
    shell: Shell, pictures: Pictures, coarse_folder: Path
) -> None:
    folder = pictures({"a": 1})
    shell("add", folder, "--encoder", shell.encoder)
    assert "rebuild --encoder" in shell("add", folder, "--encoder", coarse_folder, code=2).stderr
    assert shell("add", folder).returncode == 0  # needs no --encoder once it is made
    import sqlite3

    db = sqlite3.connect(shell.folder / "indexes" / "default" / "gallery.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    assert "upgrade" in shell("query", folder / "a" / "0.png", code=2).stderr


def test_missing_images_on_rebuild_are_named(
    shell: Shell, pictures: Pictures, coarse_folder: Path
) -> None:
    folder = pictures({"a": 2})
    shell("add", folder, "--encoder", shell.encoder)
    shutil.move(folder / "a" / "1.png", shell.folder / "gone.png")
    result = shell("rebuild", "--encoder", coarse_folder, code=1)
    assert "1.png" in result.stderr
    assert "not switched" in result.stdout
    assert shell.json("info")[0]["dimension"] == 49


def test_a_picture_that_is_back_is_not_found_until_a_rebuild(
    shell: Shell, pictures: Pictures, coarse_folder: Path
) -> None:
    folder = pictures({"a": 2})
    shell("add", folder, "--encoder", shell.encoder)
    gone, aside = folder / "a" / "1.png", shell.folder / "gone.png"
    shutil.move(gone, aside)
    shell("rebuild", "--encoder", coarse_folder, "--skip-missing", code=1)
    shutil.move(aside, gone)
    added = shell("add", folder)
    assert "1 item of those skipped has no embedding" in added.stderr
    assert "`siasearch rebuild` embeds" in added.stderr
    assert shell.json("add", folder)[0]["unembedded"] == 1
    shell("rebuild")
    assert not shell("add", folder).stderr


INTERRUPTED = """
import os, signal, sys, time, weakref
from siamese_search.gallery import enrolment
from siamese_search.storage.catalog import Catalog
from siamese_search.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
enrolment.COMMIT_SECONDS = 0.0  # a commit after every batch
add = Catalog.add

class Freed:
    pass

def add_and_interrupt(*arguments, **options):
    numbers = add(*arguments, **options)
    if sys.argv[0] == "raised":
        signal.raise_signal(signal.SIGINT)
    freed = Freed()
    callback = weakref.ref(freed, lambda gone: signal.raise_signal(signal.SIGINT))
    del freed  # Python cannot raise it here
    time.sleep(60)

Catalog.add = add_and_interrupt
sys.argv = [sys.argv[2], "add", "many", "--encoder", sys.argv[1]]
main()
"""


@pytest.mark.parametrize("where", ["raised", "in a callback"])
def test_ctrl_c_keeps_what_is_committed_and_says_so(
    shell: Shell, pictures: Pictures, where: str
) -> None:
    pictures({"a": 200}, "many")
    process = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, shell.encoder, where],
        cwd=shell.folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 1, process.stderr
    assert "Traceback" not in process.stderr
    kept = int(process.stderr.split("interrupted: ")[1].split()[0])
    assert 0 < kept < 200
    assert shell.json("info")[0]["items"] == kept
    assert shell.json("check")[0]["ok"]
    (report,) = shell.json("add", "many")
    assert (report["skipped"], report["added"]) == (kept, 200 - kept)


def test_what_the_system_refuses_is_a_line(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 1})
    shell("add", folder, "--encoder", shell.encoder)
    long = "x" * 300
    assert "File name too long" in shell("info", "--gallery", long, code=2).stderr
    assert "unknown encoder" in shell("add", folder, "--encoder", long, code=2).stderr
    command = f"{sys.executable} -m siamese_search list"
    for tail, code in ((" > /dev/full", 2), (" | true", 0)):
        result = subprocess.run(
            command + tail, shell=True, cwd=shell.folder, capture_output=True, text=True
        )
        assert result.returncode == code
        assert "Traceback" not in result.stderr


def test_a_piped_manifest_is_read_once(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 2})
    rows = "path,label\n" + "".join(f"{folder}/a/{n}.png,x\n" for n in range(2))
    result = subprocess.run(
        f"{sys.executable} -m siamese_search add --json --manifest /dev/stdin -e {shell.encoder}",
        shell=True,
        cwd=shell.folder,
        input=rows,
        capture_output=True,
        text=True,
    )
    assert json.loads(result.stdout)["added"] == 2


def test_a_moved_encoder_is_remembered(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 1})
    shutil.copytree(shell.encoder, shell.folder / "first")
    shell("add", folder, "--encoder", "first")
    shutil.move(shell.folder / "first", shell.folder / "second")
    probe = str(folder / "a" / "0.png")
    assert "--encoder" in shell("query", probe, code=2).stderr
    assert shell.json("query", probe, "--encoder", "second")[0]["identity"] == "a"
    assert shell.json("query", probe)[0]["identity"] == "a"


def test_names_print_whatever_the_terminal_knows(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"Ωμέγα": 1})
    shell("add", folder, "--encoder", shell.encoder)
    command = [sys.executable, "-m", "siamese_search", "list"]
    western = os.environ | {"PYTHONIOENCODING": "latin-1"}
    for extra in ([], ["--json"]):
        output = subprocess.check_output([*command, *extra], cwd=shell.folder, env=western)
        assert b"\\u03a9" in output


def test_check_names_a_damaged_encoder(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 1})
    shutil.copytree(shell.encoder, shell.folder / "mine")
    shell("add", folder, "--encoder", "mine")
    (shell.folder / "mine" / "encoder.onnx").write_bytes(b"damaged")
    (report,) = shell.json("check", code=1)
    assert "wrong checksum" in report["faults"][0]


@pytest.mark.slow
def test_calibrate_benchmark_and_audit(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({f"id{number}": 2 for number in range(8)})
    shell("add", folder, "--encoder", shell.encoder)
    assert shell("query", folder, "--fpir", "0.1", code=2).stderr.count("siasearch calibrate") == 1
    assert shell.json("query", folder / "id0" / "0.png")[0]["p_value"] is None
    (found,) = shell.json("calibrate", "--fpir", "0.1", "--metric", "none")
    assert found["metric"] is None
    assert "choose one of auto, none" in shell("calibrate", "--metric", "x", code=2).stderr
    (facts,) = shell.json("info")
    assert facts["metric"] is None
    assert (found["fpir"], found["identities"], found["items"]) == (0.1, 8, 16)
    assert found["rejected"] == []
    said = shell("calibrate").stdout
    assert "asked: about 10% of strangers, things that are not enrolled, may get a name" in said
    assert "(--fpir 0.1; as chosen before)" in said
    assert f"your own: {found['named']:.0%} of {found['genuine']} pictures would get" in said
    assert "different strangers to get a name, told by your 8 identities, each a stranger" in said
    assert "points" not in said
    assert not any(word in said for word in ("FPIR", "rule balanced", "as good as"))
    assert found["genuine"] == 16
    assert "evidence" not in found  # up to a thousand numbers
    asked = shell("calibrate", "--fpir", "0.05").stdout
    assert "they are few for such a rate, which about 89 would show: the rest is" in asked
    shell("calibrate", "--fpir", "0.1")
    assert "FPIR 0.1," in shell("info").stdout  # as before
    (strict,) = shell.json("query", folder / "id0" / "0.png", "--fpir", "0.001")
    (lax,) = shell.json("query", folder / "id0" / "0.png", "--fpir", "30%")
    assert strict["threshold"] > lax["threshold"]
    assert strict["p_value"] == pytest.approx(1 / 17)
    both = ("--fpir", "0.1", "--threshold", "0.5")
    assert "leave out --threshold" in shell("query", folder, *both, code=2).stderr

    (report,) = shell.json("benchmark", folder, "--report", "report.html")
    assert report["draws"][0]["recall@1"] == 1
    assert report["draws"][0]["FPIR"] is None
    assert report["curves"]["identities"] == [
        {"identities": size, "recall@1": [1.0] * 5, "TPIR at FPIR 0.1": [None] * 5}
        for size in (5, 8)
    ]
    assert "As more is enrolled" in (shell.folder / "report.html").read_text()
    assert (shell.folder / "report.html").stat().st_size > 1000
    printed = shell("benchmark", "--split", folder, "--encoder", shell.encoder, "--seeds", "2")
    assert "recall@1" in printed.stdout
    assert "±" in printed.stdout
    assert "over identities" in printed.stdout
    assert "over shots" in printed.stdout
    assert "name labelled PROBES" in shell("benchmark", code=2).stderr
    assert "unknown suite" in shell("benchmark", "--suite", "x", code=2).stderr
    assert "--data" in shell("benchmark", "--suite", "cub", code=2).stderr
    nowhere = ("--suite", "cub", "--data", folder, "--encoder", shell.encoder)
    assert "name the folder that has" in shell("benchmark", *nowhere, code=2).stderr
    assert "name labelled PROBES" in shell("benchmark", folder, "--split", folder, code=2).stderr
    few = ("--split", folder, "--shots", "2", "--encoder", shell.encoder)
    assert "more than 2 pictures" in shell("benchmark", *few, code=2).stderr

    (found,) = shell.json("audit")
    assert found["items"] == 16
    assert len(found["suspects"]) == 16
    assert found["suspects"][0].keys() >= {"item", "identity", "score", "better", "better_score"}
    (first,) = shell.json("audit", "--top", "1")
    assert first == found | {
        kind: found[kind][:1] for kind in ("suspects", "duplicates", "confusable")
    }
    assert "items look more like another identity" in shell("audit").stdout

    strange = pictures({"not this": 1}, "strange", first_seed=60)
    shell("add", strange, "--distractor")
    (answer,) = shell.json("query", strange / "not this" / "0.png", "--threshold", "-1")
    assert answer["identity"] is None
    assert answer["matches"][0]["distractor"] is True
    assert "distractor" in shell("query", strange, "--threshold", "-1").stdout
    shell("add", pictures({"more": 8}, "more", first_seed=80))
    assert "changed much" in shell("query", strange).stderr


def test_a_folder_placed_elsewhere_is_the_first_thing_that_benchmark_says(
    shell: Shell, pictures: Pictures
) -> None:
    enrolled = {f"Packages/Milk/kind{n}": 1 for n in range(6)}
    shell("add", pictures(enrolled), "--encoder", shell.encoder)
    probes = pictures({f"Milk/kind{n}": 2 for n in range(4)}, "probes")
    pictures({"Packages/Milk/kind4": 1, "Nothing/like/it": 3}, "probes", first_seed=30)
    lines = shell("benchmark", probes, "--report", "report.html").stdout.splitlines()
    assert lines[0] == "5 labels are not enrolled, so their 11 pictures count as strangers:"
    assert lines[1] == "  Milk/kind0, 2 pictures (near: Packages/Milk/kind0)"
    assert lines[5] == "  Nothing/like/it, 3 pictures"
    assert lines[6].endswith("asked about " + str(probes))
    few = "at FPIR 0.1 is left out: 11 pictures of strangers cannot show such a rate, 30 could"
    assert any(few in line for line in lines)
    assert any("of 11 pictures of strangers got a name" in line for line in lines)
    page = (shell.folder / "report.html").read_text()
    assert page.index("Milk/kind0, 2 pictures (near") < page.index("<table>")
    (found,) = shell.json("benchmark", probes)
    assert next(iter(found)) == "unmatched"
    assert found["unmatched"][0] == {
        "label": "Milk/kind0", "pictures": 2, "near": ["Packages/Milk/kind0"]
    }  # fmt: skip
    assert found["draws"][0]["TPIR at FPIR 0.1"] is None
    assert (found["stranger_rate"]["probes"], found["stranger_rate"]["things"]) == (11, 5)
    assert sorted(one["probes"] for one in found["per_stranger"]) == [2, 2, 2, 2, 3]
    assert found["enrolled_probes"] == 6
    assert {
        "figure": "TPIR at FPIR 0.001", "counted": 11, "needed": 3000, "of": "strangers"
    } in found["left_out"][0]  # fmt: skip


def test_wildcards_list_the_identities_that_they_fit(shell: Shell, pictures: Pictures) -> None:
    names = ["Milk/oat", "Milk/soy", "Tea/green", "[odd]", "Café"]
    shell("add", pictures(dict.fromkeys(names, 1)), "--encoder", shell.encoder)
    assert [one["identity"] for one in shell.json("list", "Milk/*")] == ["Milk/oat", "Milk/soy"]
    assert [one["identity"] for one in shell.json("list", "*e?n")] == ["Tea/green"]
    assert [one["identity"] for one in shell.json("list", "Cafe\u0301*")] == ["Café"]
    assert shell("list", "[MT]*/*").stdout.splitlines() == [
        "       1  Milk/oat", "       1  Milk/soy", "       1  Tea/green"
    ]  # fmt: skip
    assert [one["item"] for one in shell.json("list", "[odd]")] == [5]  # a name as it stands
    assert "no identity fits 'Beer*'" in shell("list", "Beer*", code=2).stderr


def test_a_list_is_printed_as_a_table(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 2, "b": 1})
    (folder / "list.csv").write_text("path;label;shop\na/0.png;a, b;north\nb/0.png;c;\n")
    shell("add", "--manifest", folder / "list.csv", "--encoder", shell.encoder)
    assert shell("list", "--csv").stdout == 'identity,items,distractor\n"a, b",1,False\nc,1,False\n'
    first = f'1,"a, b",{folder / "a" / "0.png"},north\n'
    assert shell("list", "a, b", "--csv").stdout == f"item,identity,path,shop\n{first}"
    assert shell("list", "--where", "shop=north", "--csv").stdout.endswith(first)
    assert "choose one" in shell("list", "--csv", "--json", code=2).stderr


def test_one_is_not_several(shell: Shell, pictures: Pictures) -> None:
    printed = shell("add", pictures({"a": 1}), "--encoder", shell.encoder).stdout
    assert printed.splitlines()[1] == "indexes/default has 1 identity, 1 item"
    assert "holds 1 item (" in shell("compact").stdout
    assert "0 of 1 item look more" in shell("audit").stdout


def test_options_that_would_do_nothing_are_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, suite = ("--split", "x"), ("--suite", "omniglot", "--data", "x")
    for arguments, idle, instead in (
        (("x", "--shots", "2"), "--shots", "use --split"),
        (("x", "--strangers", "0.5"), "--strangers", "use --split"),
        (("x", "--data", "x"), "--data", "use --suite"),
        ((*split, "--data", "x"), "--data", "use --suite"),
        ((*split, "--gallery", "x"), "--gallery", "use PROBES"),
        ((*suite, "--report", "x"), "--report", "use PROBES or --split"),
        ((*suite, "--fpir", "0.1"), "--fpir", "use PROBES or --split"),
        ((*suite, "--seeds", "3"), "--seeds", "--suite grocery"),
        ((*suite, "--rule", "best"), "--rule", "--suite grocery"),
    ):
        said = shell("benchmark", *arguments, code=2).stderr
        assert f"error: {idle} does nothing with" in said
        assert instead in said
    monkeypatch.setenv("SIASEARCH_GALLERY", "x")  # set for all commands
    assert "no such file" in shell("benchmark", *split, code=2).stderr


def test_pictures_of_strangers_that_cannot_be_read_are_named(
    shell: Shell, pictures: Pictures
) -> None:
    shell("add", pictures({f"id{n}": 1 for n in range(3)}), "--encoder", shell.encoder)
    strange = pictures({f"other{n}": 1 for n in range(6)}, "strange", first_seed=50)
    (strange / "broken.png").write_text("no picture")
    printed = shell("calibrate", "--strangers", strange, code=1)
    assert "rejected: " in printed.stderr
    assert "broken.png" in printed.stderr
    assert "asked: about 1% of strangers" in printed.stdout
    assert "told by 6 pictures, each of another stranger (pictures of one thing" in printed.stdout
    assert "FPIR 0.01" in shell("info").stdout
    (found,) = shell.json("calibrate", "--strangers", strange, code=1)
    assert [Path(one["path"]).name for one in found["rejected"]] == ["broken.png"]
    assert found["strangers"] == 6
    few = shell("calibrate", "--strangers", strange / "broken.png", code=2).stderr
    assert "rejected: " in few  # whatever comes of it
    assert "error: " in few


def test_unknowns_are_kept_shown_and_enrolled(shell: Shell, pictures: Pictures) -> None:
    shell("add", pictures({"a": 1, "b": 1}), "--encoder", shell.encoder)
    assert "nothing is kept" in shell("unknowns").stdout
    strange = pictures({"x": 2}, "strange", first_seed=50)
    assert "2 images that got no name are kept" in shell("query", strange, "--keep-unknown").stderr
    printed = shell("unknowns", "--page", "unknowns.html").stdout
    assert "group 1: 1 image, most like" in printed
    assert "data:image/jpeg" in (shell.folder / "unknowns.html").read_text()
    assert "       1  " in shell("unknowns", "--show", "1").stdout  # with numbers
    printed = shell("unknowns", "--limit", "1").stdout
    assert printed.splitlines()[-1] == "1 of 2 groups: --skip 1 shows more, --limit 0 all"
    assert shell.json("unknowns", "--skip", "1", "--limit", "1")[0]["number"] == 2
    assert "in none of these" in (
        shell("unknowns", "--enroll", "1", "--label", "x", "--without", "2", code=2).stderr
    )
    assert "leaves images out" in shell("unknowns", "--without", "2", code=2).stderr
    groups = shell.json("unknowns")
    assert [group["number"] for group in groups] == [1, 2]
    (report,) = shell.json("unknowns", "--enroll", "1", "--label", "x")
    assert report["added"] == 1
    assert "1 image forgotten" in shell("unknowns", "--drop", "2").stdout
    assert shell.json("unknowns", "--clear") == [{"dropped": 0}]
    assert "taken back: dropped 1 kept image" in shell("undo").stdout
    assert shell.json("unknowns", "--clear") == [{"dropped": 1}]
    assert "no group 7" in shell("unknowns", "--show", "7", code=2).stderr
    assert "use one of" in shell("unknowns", "--enroll", "7", code=2).stderr


def test_what_a_query_was_about_is_enrolled_from_its_output(
    shell: Shell, pictures: Pictures
) -> None:
    shell("add", pictures({"a": 1, "b": 1}), "--encoder", shell.encoder)
    strange = pictures({"x": 1}, "strange", first_seed=50)
    picture(50, noise=6).save(strange / "x" / "1.png")
    program = f"{sys.executable} -m siamese_search"
    pipe = f"{program} query strange --json | {program} add --label mug --from-query - --json"
    result = subprocess.run(pipe, shell=True, cwd=shell.folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["added"], report["identities"], report["items"]) == (2, 3, 4)
    (answer,) = shell.json("query", "strange/x/0.png")
    assert answer["identity"] == "mug"

    answers = shell("query", "strange/x/0.png", "strange/x/1.png", "--json").stdout
    (shell.folder / "answers.jsonl").write_text(answers)
    (strange / "x" / "1.png").unlink()
    again = ("add", "--label", "mug", "--from-query", "answers.jsonl")
    (report,) = shell.json(*again, code=1)
    assert (report["added"], report["skipped"]) == (0, 1)
    assert report["rejected"][0]["path"] == str(strange / "x" / "1.png")
    assert "no such file" in report["rejected"][0]["reason"]


@pytest.mark.slow
def test_plots_are_written_where_they_may_be(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 2, "b": 1})
    shell("add", folder, "--encoder", shell.encoder)
    assert shell("plot", "map").stdout == "3 items, 2 identities; drawn in map.png\n"
    assert (shell.folder / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "drawn in map.html" in shell("plot", "map", "--out", "map.html").stdout
    assert "0.png, item 1" in (shell.folder / "map.html").read_text(encoding="utf-8")
    assert "PNG files" in shell("plot", "det", "--out", "det.html", code=2).stderr
    (drawn,) = shell.json("plot", "neighbours", folder / "b" / "0.png", "--k", "2", "-o", "b.png")
    assert (drawn["kind"], drawn["identity"], drawn["drawn"]) == ("neighbours", "b", "b.png")
    assert drawn["neighbours"][0]["identity"] == "b"
    (drawn,) = shell.json("plot", "det")
    assert (drawn["genuine"], drawn["impostor"], drawn["items"]) == (2, 3, 3)
    (folder / "b" / "0.png").unlink()
    assert "most alike are a and b" in shell("plot", "confusions", "-o", "c.png").stdout
    result = shell("plot", "scores", "-o", folder, code=2)
    assert result.stderr == f"error: {folder} is a folder: name a file to write\n"


def test_the_end_of_a_command_looks_at_no_object_again() -> None:
    code = (
        "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 0));"
        "from siamese_search.cli import main; sys.argv[1:] = ['--version']; main()"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.splitlines()[-1] == "True"


def test_verify_says_what_it_does_where_the_gallery_is_calibrated(
    shell: Shell, pictures: Pictures
) -> None:
    folder = pictures({f"id{number}": 2 for number in range(8)})
    shell("add", folder, "--encoder", shell.encoder)
    pair = folder / "id0" / "0.png", folder / "id0" / "0.png"
    (before,) = shell.json("verify", *pair)
    shell("calibrate", "--fpir", "0.1")
    (after,) = shell.json("verify", *pair)
    assert before == after
    assert "also where the gallery is calibrated" in " ".join(
        shell("verify", "--help").stdout.replace("│", " ").split()
    )
    (facts,) = shell.json("info")
    assert facts["threshold"] == after["threshold"]
    assert "evidence from 0." in facts["calibration"]


def test_a_number_out_of_range_is_named_with_its_range(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({"a": 1, "b": 1})
    image = folder / "a" / "0.png"
    shell("add", folder, "--encoder", shell.encoder)
    cosine, share = "7.0: give a cosine from -1 to 1", "7.0: give a share of strangers from 0.001"
    for said, arguments in (
        (f"--threshold is {cosine}", ("query", image, "--threshold", "7")),
        (f"--threshold is {cosine}", ("verify", image, image, "--threshold", "7")),
        (f"--duplicate is {cosine}", ("audit", "--duplicate", "7")),
        (f"fpir is {share}", ("query", image, "--fpir", "7")),
        (f"fpir is {share}", ("calibrate", "--fpir", "7")),
        (f"fpir is {share}", ("benchmark", folder, "--fpir", "700%")),
        ("it must be at least 1", ("query", image, "--k", "0")),
        ("it must be a whole number", ("query", image, "--k", "many")),
        ("it must be a number", ("query", image, "--threshold", "80%")),
        ("it must be a share, as 0.05 or 5%", ("calibrate", "--fpir", "few")),
        ("not calibrated: run `siasearch calibrate` first", ("query", image, "--fpir", "5%")),
    ):
        assert said in shell(*arguments, code=2).stderr


def test_check_says_what_to_do_of_pictures_that_were_moved_or_overwritten(
    shell: Shell, pictures: Pictures
) -> None:
    folder = pictures({"a": 2, "b": 1})
    shell("add", folder, "--encoder", shell.encoder)
    shell("relabel", "a", "c")
    folder.rename(shell.folder / "moved")
    said = shell("check").stderr
    assert "3 pictures are not where they were" in said
    assert "`siasearch add FOLDER`" in said
    assert "remove" not in said
    picture(9).save(shell.folder / "moved" / "b" / "0.png")
    result = shell("add", "moved", "--copy")
    assert result.stdout.startswith("1 added, 2 skipped (enrolled already; copies made of 2), 0 ")
    picture(8).save(shell.folder / "moved" / "b" / "0.png")
    said = shell("add", "moved").stderr
    assert "(moved/b/0.png) was enrolled from a file that holds another picture now" in said
    assert "`siasearch remove --item 4`" in said
    names = shell.json("list", "b")
    shell("remove", "--item", str(names[0]["item"]), "--item", str(names[1]["item"]))
    assert shell("check").stderr == ""
    picture(10).save(shell.folder / "moved" / "b" / "0.png")
    said = shell("check").stderr
    assert "1 picture changed since enrolment" in said
    assert "not where" not in said


def test_a_gallery_can_be_uncalibrated(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({f"id{number}": 2 for number in range(8)})
    shell("add", folder, "--encoder", shell.encoder)
    probe = folder / "id0" / "0.png"
    (before,), (facts,) = shell.json("query", probe), shell.json("info")
    assert "closer" in facts
    said = shell("calibrate", "--fpir", "0.1").stderr
    assert "this replaced the encoder's threshold; `siasearch calibrate --off` goes back" in said
    said = shell("calibrate", "--fpir", "0.05").stderr
    assert "for 10% of strangers; `siasearch calibrate --fpir 0.1` goes back to that" in said
    said = shell("calibrate", "--closer", "none", "--metric", "none").stderr
    assert "`siasearch calibrate --fpir 0.05 --metric auto --closer auto` goes back" in said
    assert "none, as chosen" in shell("info").stdout
    assert "goes back" not in shell("calibrate").stderr
    assert "(of `verify`; queries: see calibration)" in shell("info").stdout
    shell("remove", "id7")
    assert "calibrating is no such change, and is not taken back" in shell("undo").stderr
    assert "leave out what to" in shell("calibrate", "--off", "--fpir", "0.1", code=2).stderr
    assert (
        "not calibrated any more: the encoder's threshold, 0.900,"
        in shell("calibrate", "--off").stdout
    )
    assert shell.json("calibrate", "--off") == [{"forgotten": False, "threshold": 0.9}]
    (after,), (now,) = shell.json("query", probe), shell.json("info")
    assert (after["score"], after["threshold"]) == (before["score"], before["threshold"])
    assert (now["calibration"], now["metric"]) == (None, None)
    assert shell("check").stdout == "no faults\n"


def test_strangers_that_are_enrolled_are_counted(shell: Shell, pictures: Pictures) -> None:
    folder = pictures({f"id{number}": 2 for number in range(8)})
    shell("add", folder, "--encoder", shell.encoder)
    said = shell("calibrate", "--strangers", folder, code=2).stderr
    assert said.count("left out") == 1
    assert "16 pictures are enrolled, and so no strangers: left out (" in said
