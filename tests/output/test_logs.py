"""Where logs go: the tree on disk, what is redirected and teed, the null device, specifications of the user's own."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from ipyelastic.contexts.start import start_processes
from ipyelastic.output.logs import DefaultLogsSpecs, LogsDest, LogsSpecs
from ipyelastic.terms.std import Std
from support import context_bodies as bodies

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


def _envs(count: int, attempt: int = 0) -> dict[int, dict[str, str]]:
    return {rank: {"TORCHELASTIC_RUN_ID": "run", "TORCHELASTIC_RESTART_COUNT": str(attempt)} for rank in range(count)}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_tree_has_a_folder_per_run_attempt_and_rank(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ALL)
    dest = specs.reify(_envs(2))
    (run,) = (tmp_path / "logs").iterdir()
    assert run.name.startswith("run_")
    assert len(run.name) == len("run_") + 8
    assert str(run) == specs.run_log_dir
    attempt = run / "attempt_0"
    assert dest == LogsDest(
        stdouts={rank: str(attempt / str(rank) / "stdout.log") for rank in range(2)},
        stderrs={rank: str(attempt / str(rank) / "stderr.log") for rank in range(2)},
        error_files={rank: str(attempt / str(rank) / "error.json") for rank in range(2)},
        filtered_stdout=str(attempt / "filtered_stdout.log"),
        filtered_stderr=str(attempt / "filtered_stderr.log"),
    )
    assert sorted(str(path.relative_to(run)) for path in run.rglob("*")) == ["attempt_0", "attempt_0/0", "attempt_0/1"]


def test_without_a_run_id_the_folder_has_torchs_default_name(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path))
    dest = specs.reify({0: {}})
    assert Path(specs.run_log_dir).name.startswith("test_run_id_")
    assert Path(dest.error_files[0]).relative_to(specs.run_log_dir) == Path("attempt_0/0/error.json")


def test_each_attempt_is_beside_the_others_and_the_same_one_starts_empty(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path), redirects=Std.ALL)
    first, second = specs.reify(_envs(1)), specs.reify(_envs(1, attempt=1))
    for dest in (first, second):
        Path(dest.stdouts[0]).write_text("old")
        Path(dest.error_files[0]).write_text("{}")
    assert specs.reify(_envs(1)) == first
    assert [path.name for path in tmp_path.iterdir()] == [Path(specs.run_log_dir).name]
    assert list(Path(first.stdouts[0]).parent.iterdir()) == []
    assert Path(second.stdouts[0]).read_text() == "old"


def test_two_objects_never_share_a_run_folder(tmp_path: Path) -> None:
    one, other = DefaultLogsSpecs(log_dir=str(tmp_path)), DefaultLogsSpecs(log_dir=str(tmp_path))
    one.reify(_envs(1))
    other.reify(_envs(1))
    assert one.run_log_dir != other.run_log_dir
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_id_stays_below_the_root(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path / "logs"))
    specs.reify({0: {"TORCHELASTIC_RUN_ID": "../../out/of it"}})
    assert Path(specs.run_log_dir).parent == tmp_path / "logs"
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


@pytest.mark.parametrize(
    ("redirects", "tee", "files", "teed"),
    [
        (Std.NONE, Std.NONE, "", ""),
        (Std.OUT, Std.NONE, "0out 1out", ""),
        (Std.NONE, Std.ERR, "0err 1err", "0err 1err"),
        (Std.OUT, Std.ERR, "0out 0err 1out 1err", "0err 1err"),
        ({0: Std.ALL}, {1: Std.OUT}, "0out 0err 1out", "1out"),
        ({7: Std.ALL}, Std.NONE, "", ""),
    ],
)
def test_tee_implies_redirect(tmp_path: Path, redirects: object, tee: object, files: str, teed: str) -> None:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path), redirects=redirects, tee=tee)  # type: ignore[arg-type]
    dest = specs.reify(_envs(2))

    def named(stdouts: Mapping[int, str], stderrs: Mapping[int, str]) -> str:
        both = [(rank, which) for rank in range(2) for which in ("out", "err")]
        return " ".join(f"{rank}{which}" for rank, which in both if {"out": stdouts, "err": stderrs}[which].get(rank))

    assert named(dest.stdouts, dest.stderrs) == files
    assert named(dest.tee_stdouts, dest.tee_stderrs) == teed
    assert set(dest.stdouts) == set(dest.stderrs) == {0, 1}
    assert all(dest.stdouts[rank] == path for rank, path in dest.tee_stdouts.items())
    assert all(dest.stderrs[rank] == path for rank, path in dest.tee_stderrs.items())


def test_a_rank_outside_the_filter_keeps_its_files_and_is_silent(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(log_dir=str(tmp_path), redirects=Std.NONE, tee=Std.OUT, local_ranks_filter={0})
    dest = specs.reify(_envs(2))
    assert dest.stdouts[1].endswith("/1/stdout.log")
    assert dest.stderrs == {0: "", 1: os.devnull}
    assert set(dest.tee_stdouts) == {0}
    assert set(dest.error_files) == {0, 1}


def test_an_empty_filter_is_no_filter(tmp_path: Path) -> None:
    dest = DefaultLogsSpecs(log_dir=str(tmp_path), tee=Std.OUT, local_ranks_filter=set()).reify(_envs(2))
    assert set(dest.tee_stdouts) == {0, 1}
    assert dest.stderrs == {0: "", 1: ""}


def test_envs_get_each_ranks_error_file(tmp_path: Path) -> None:
    envs = _envs(2)
    dest = DefaultLogsSpecs(log_dir=str(tmp_path)).reify(envs)
    assert {rank: env[ERROR_FILE] for rank, env in envs.items()} == dest.error_files
    assert ERROR_FILE not in os.environ


def test_no_ranks_need_no_files(tmp_path: Path) -> None:
    dest = DefaultLogsSpecs(log_dir=str(tmp_path), redirects=Std.ALL, tee=Std.ALL).reify({})
    assert (dest.stdouts, dest.stderrs, dest.tee_stdouts, dest.error_files) == ({}, {}, {}, {})


def test_missing_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    former = os.umask(0o022)
    try:
        specs = DefaultLogsSpecs(log_dir=str(tmp_path / "not" / "yet"))
        dest = specs.reify(_envs(1))
    finally:
        os.umask(former)
    assert specs.root_log_dir == str(tmp_path / "not" / "yet")
    rank_folder = Path(dest.error_files[0]).parent
    for folder in (tmp_path / "not" / "yet", Path(specs.run_log_dir), rank_folder.parent, rank_folder):
        assert _mode(folder) == 0o700, folder


def test_without_a_folder_a_temporary_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    specs = DefaultLogsSpecs()
    (made,) = tmp_path.iterdir()
    assert specs.root_log_dir == str(made)
    assert made.name.startswith("torchelastic_")
    assert specs.run_log_dir == ""


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(NotADirectoryError) as caught:
        DefaultLogsSpecs(log_dir=str(path))
    assert str(caught.value) == f"log_dir: {path} is not a directory"


def test_null_device_writes_nothing_and_leaves_streams_on_the_console() -> None:
    specs, envs = DefaultLogsSpecs(log_dir=os.devnull, redirects=Std.ALL, tee={0: Std.OUT, 1: Std.ERR}), _envs(2)
    dest = specs.reify(envs)
    assert dest == LogsDest(
        stdouts={0: "", 1: ""},
        stderrs={0: "", 1: ""},
        tee_stdouts={0: os.devnull},
        tee_stderrs={1: os.devnull},
        error_files={0: "", 1: ""},
    )
    assert [env[ERROR_FILE] for env in envs.values()] == ["", ""]
    assert specs.root_log_dir == os.devnull


@pytest.mark.parametrize("entrypoint", ["/bin/true", bodies.say])
def test_duplicate_filters_on_the_null_device_do_no_harm(entrypoint: object) -> None:
    context = start_processes(
        "null",
        entrypoint,  # type: ignore[arg-type]
        {0: ("line",)},
        {0: {}},
        DefaultLogsSpecs(log_dir=os.devnull, redirects=Std.ALL, tee=Std.ALL),
        start_method="forkserver",
        duplicate_stdout_filters=["line"],
        duplicate_stderr_filters=["line"],
    )
    result = context.wait(timeout=30)
    assert result is not None
    assert result.return_values == {0: None}
    assert (context.filtered_stdout, context.filtered_stderr) == (None, None)


def test_specifications_are_equal_by_value_and_have_no_hash(tmp_path: Path) -> None:
    def made(**other: object) -> DefaultLogsSpecs:
        settings = {"log_dir": str(tmp_path), "redirects": Std.OUT, "tee": Std.ERR, "local_ranks_filter": {1}, **other}
        return DefaultLogsSpecs(**settings)  # type: ignore[arg-type]

    used = made()
    used.reify(_envs(1))
    assert made() == used
    for other in ({"log_dir": os.devnull}, {"redirects": Std.ALL}, {"tee": {0: Std.ERR}}, {"local_ranks_filter": None}):
        assert made() != made(**other), other
    assert made() != "something else"
    with pytest.raises(TypeError, match="unhashable"):
        hash(made())


def test_repr_names_all_four(tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(log_dir="/dev/null", redirects={0: Std.OUT}, tee={1: Std.ERR}, local_ranks_filter={3})
    said = f"{Std.OUT!r}", f"{Std.ERR!r}"
    assert repr(specs) == (
        f"DefaultLogsSpecs(root_log_dir=/dev/null, redirects={{0: {said[0]}}}, tee={{1: {said[1]}}},"
        " local_ranks_filter={3})"
    )


# ---- specifications of the user's own


class _Own(LogsSpecs):
    """Flat files, as a plug-in may want them."""

    def __init__(self, folder: Path, stdout_ranks: tuple[int, ...] = (0, 1), stderr_ranks: tuple[int, ...] = (0, 1)):
        super().__init__(str(folder), Std.ALL)
        self.stdout_ranks, self.stderr_ranks = stdout_ranks, stderr_ranks
        self.seen: list[Mapping[int, dict[str, str]]] = []

    def reify(self, envs: Mapping[int, dict[str, str]]) -> LogsDest:
        self.seen.append(envs)
        return LogsDest(
            stdouts={rank: f"{self.root_log_dir}/{rank}.out" for rank in self.stdout_ranks},
            stderrs={rank: f"{self.root_log_dir}/{rank}.err" for rank in self.stderr_ranks},
            error_files={rank: f"{self.root_log_dir}/{rank}.json" for rank in envs},
        )

    @property
    def root_log_dir(self) -> str:
        return str(self._root_log_dir)


@pytest.mark.parametrize("kind", ["function", "program"])
def test_a_subclass_decides_where_logs_go(tmp_path: Path, kind: str) -> None:
    specs, envs = _Own(tmp_path), _envs(2)
    program = ("-S", "-c", "import sys; print('out', sys.argv[1]); print('err', sys.argv[1], file=sys.stderr)")
    args = {rank: (str(rank),) if kind == "function" else (*program, rank) for rank in range(2)}
    entrypoint = bodies.say if kind == "function" else sys.executable
    context = start_processes("own", entrypoint, args, envs, specs, start_method="forkserver")
    result = context.wait(timeout=30)
    assert result is not None
    assert result.stdouts == {0: f"{tmp_path}/0.out", 1: f"{tmp_path}/1.out"}
    assert [(tmp_path / f"{rank}.out").read_text() for rank in range(2)] == ["out 0\n", "out 1\n"]
    assert [(tmp_path / f"{rank}.err").read_text() for rank in range(2)] == ["err 0\n", "err 1\n"]
    assert specs.seen == [envs]


@pytest.mark.parametrize("entrypoint", ["/bin/true", bodies.say])
@pytest.mark.parametrize(("what", "ranks"), [("stdouts", (0,)), ("stderrs", (0, 2)), ("stdouts", (0, 1, 2))])
def test_a_subclass_that_misses_ranks_is_refused(
    tmp_path: Path, entrypoint: object, what: str, ranks: tuple[int, ...]
) -> None:
    specs = _Own(tmp_path, **{f"{what[:-1]}_ranks": ranks})  # type: ignore[arg-type]
    with pytest.raises(RuntimeError) as caught:
        start_processes("own", entrypoint, {0: (), 1: ()}, _envs(2), specs)  # type: ignore[arg-type]
    said = f"{what}, local rank mapping mismatch, expected: {{0, 1}}, actual: {set(ranks)}"
    assert str(caught.value) == said
