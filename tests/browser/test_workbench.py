"""The workbench in JupyterLab, used by a person: buttons, keys, reloads, restarts, themes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from case_fixtures import lattice, make_case
from job_fixtures import PATIENCE
from workbench_fixtures import TOKEN

from historymap_lib import display, steps
from historymap_lib.client import Client
from historymap_lib.jobs import Jobs
from historymap_lib.project import load

LONG = 10_000
"""Epochs of a training that does not end during a test."""
CHECK = Path(__file__).with_name("check.js")
FAST = """
import sys
for number in range(50_000):
    sys.stdout.write(f"\\x1b[32mline\\x1b[0m {number} of the log of a job that prints fast\\n")
"""


@pytest.fixture
def town(tmp_path, monkeypatch):
    """A case without anything made yet but the photo for the map, whose training would take for ever."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few = dict(list(lattice().items())[:60])
    file = make_case(
        tmp_path, few, tiles={"count": 4}, training={"epochs": LONG, "patience": LONG}, jobs={"idle": 30, "grace": 5}
    )
    display.make(load(file), "photo")
    return file


def test_a_step_is_run_and_what_it_did_is_still_there_after_a_reload_and_a_restart(town, lab):
    page = lab(town).run_all()
    page.shot()
    assert page.form("train").get_by_role("button").get_attribute("aria-disabled") == "true"
    assert "generate-training" in page.form("train").inner_text()

    page.run("generate training", tiles="3")
    page.job(1, "completed")
    page.log_has("generate-training: 3 tiles")
    page.page.locator("[data-key='training tiles'].hm-good").wait_for()
    page.shot()

    page.save()
    page.reload()
    page.job(1, "completed")
    page.log_has("generate-training: 3 tiles")

    page.restart()
    page.run_all()
    page.job(1, "completed")
    page.log_has("generate-training: 3 tiles")

    page.run("train")
    page.job(2, "running")
    page.log_has("train:")
    page.page.locator(".hm-active").filter(has_text=f"of {2 * LONG:,} epoch").wait_for()
    page.shot()
    page.reload()
    page.run_all()
    page.page.get_by_role("button", name="Cancel job 2, train").click()
    page.job(2, "cancelled")
    page.log_has("ended on request")
    page.shot()
    assert not load(town).paths.model.exists()
    assert page.errors == []


def test_two_notebooks_a_terminal_and_curl_show_and_drive_the_same_jobs(town, lab):
    steps.run(load(town), "generate-training", tiles=4)
    one = lab(town).run_all()
    folder = town.parent / "notebooks"
    shutil.copyfile(folder / "workbench.ipynb", folder / "another.ipynb")
    two = lab(town, "another.ipynb").run_all()
    words = [sys.executable, "-m", "historymap_lib.cli", "jobs", "submit", "train", "--config", str(town)]
    subprocess.run(words, check=True, capture_output=True)
    one.job(1, "running")
    two.job(1, "running")
    one.page.get_by_role("button", name="Cancel job 1, train").click()
    two.job(1, "cancelled")
    subprocess.run([*words[:4], "retry", "1", "--config", str(town)], check=True, capture_output=True)
    two.job(2, "running")
    two.page.get_by_role("button", name="Cancel job 2, train").click()
    one.job(2, "cancelled")

    def curl(*words: str) -> dict:
        login = ("--header", f"Authorization: token {TOKEN}")
        done = subprocess.run(["curl", "--silent", *login, *words], check=True, capture_output=True)
        return json.loads(done.stdout)

    if shutil.which("curl") is None:
        pytest.skip("there is no curl for the rest of it; apt-get install curl")
    api = f"{one.address}/historymap/api"
    assert curl("-X", "POST", f"{api}/train?epochs={LONG}")["job_id"] == 3
    one.job(3, "running")
    two.job(3, "running")
    one.log_has("train:")
    one.shot()
    assert curl("-X", "POST", f"{api}/jobs/3/cancel")["state"] == "cancelling"
    two.job(3, "cancelled")
    two.run("train")
    two.job(4, "running")
    assert curl(f"{api}/status")["current_job"]["id"] == 4
    messages = Client(one.address, TOKEN).follow_logs(4)
    assert next(message for message in messages if message["type"] == "log")["job_id"] == 4
    messages.close()
    one.page.get_by_role("button", name="Cancel job 4, train").click()
    one.job(4, "cancelled")
    assert curl(f"{api}/jobs/4")["state"] == "cancelled"


def test_panels_go_on_while_a_cell_runs_and_a_cell_run_again_leaves_one_workbench(town, lab):
    page = lab(town).run_all()
    page.run_all()
    page.page.evaluate(
        """async () => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            kernel.requestExecute({code: 'import time; time.sleep(3600)'});
        }"""
    )
    page.page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=busy]")
    job = Jobs(load(town)).submit("generate-training", tiles=1)
    page.job(job.id, "completed")
    assert page.page.locator(".hm-status").count() == 1


def test_a_job_that_prints_fast_shows_its_last_line_and_is_downloaded_whole(town, lab):
    page = lab(town).run_all()
    job = Jobs(load(town)).submit_command("fast", [sys.executable, "-c", FAST])
    page.log_has("line 49999 of the log")
    lines = page.page.locator(".hm-log pre").inner_text().splitlines()
    assert 0 < len(lines) <= 501
    assert page.page.locator(".hm-log pre .ansi32").count() >= 400
    with page.page.expect_download() as download:
        page.page.get_by_role("button", name="download all").click()
    assert Path(download.value.path()).read_bytes() == job.log_path.read_bytes()
    assert download.value.suggested_filename == f"historymap-job-{job.id}.log"


def test_the_log_is_filtered_and_stays_where_a_person_reads(town, lab):
    page = lab(town).run_all()
    stop = town.with_name("stop")
    code = (
        "import pathlib, sys, time\n"
        "for n in range(10**6):\n"
        f"    if pathlib.Path({str(stop)!r}).exists(): break\n"
        "    print('tick', n, flush=True); time.sleep(0.005)\n"
    )
    Jobs(load(town)).submit_command("ticks", [sys.executable, "-c", code])
    page.log_has("tick 300")
    log = page.page.locator(".hm-log pre")
    log.evaluate("pane => { pane.scrollTop = 200; pane.dispatchEvent(new Event('scroll')); }")
    seen = log.evaluate("pane => Math.round(pane.scrollTop)")
    page.page.wait_for_timeout(1000)
    assert log.evaluate("pane => Math.round(pane.scrollTop)") <= seen  # it follows the lines, not the end
    page.page.get_by_role("button", name="to the end").click()
    page.page.wait_for_timeout(500)
    assert log.evaluate("pane => pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40")
    stop.touch()
    page.job(1, "completed")
    last = log.inner_text().splitlines()[-1].split()[1]
    page.page.get_by_role("searchbox").fill(f"TICK {last}")
    page.page.get_by_text("1 of the last 500 lines").wait_for()
    assert log.inner_text().strip() == f"tick {last}"


def test_a_failed_job_says_what_to_do_and_can_be_run_again(town, lab):
    steps.run(load(town), "generate-training", tiles=4)
    photo = load(town).resolve("photo.tif")
    page = lab(town).run_all()
    for tile in (load(town).paths.training / "images").iterdir():
        tile.write_bytes(b"no TIFF")
    page.run("train")
    failed = page.job(1, "failed")
    assert "run generate-training again" in failed.inner_text()
    page.shot()
    steps.run(load(town), "generate-training", force=True, tiles=4)
    page.page.get_by_role("button", name="Run job 1, train, again").click()
    page.job(2, "running")
    photo.rename(photo.with_suffix(".away"))
    page.page.locator("[data-key=photo].hm-bad").wait_for()
    assert "there is no such photo" in page.form("generate training").inner_text()


def test_settings_that_are_edited_are_noticed_and_broken_ones_are_told(town, lab):
    page = lab(town).run_all()
    text = town.read_text(encoding="utf-8")
    town.write_text(text.replace("tiles:", "tils:"), encoding="utf-8")
    page.page.locator(".hm-error").filter(has_text="did you mean tiles?").first.wait_for()
    page.shot()
    town.write_text(text.replace("count: 4", "count: 7"), encoding="utf-8")
    page.page.locator("form[aria-label='generate training'] [name=tiles][placeholder='7']").wait_for(state="attached")


def test_everything_is_reached_and_done_by_the_keyboard(town, lab):
    page = lab(town).run_all()
    cells = page.page.locator(".jp-Cell").count()
    page.form("generate training").get_by_role("button").focus()
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")  # unfolds the options
    page.page.keyboard.press("Tab")
    page.page.keyboard.type("3")
    page.page.keyboard.press("Enter")  # in a field: runs the step
    page.job(1, "completed")
    page.log_has("generate-training: 3 tiles")
    page.form("train").get_by_role("button").focus()
    page.page.keyboard.press("Space")
    page.job(2, "running")
    for _ in range(60):
        page.page.keyboard.press("Tab")
        label = page.page.evaluate("document.activeElement?.getAttribute('aria-label')")
        if label == "Cancel job 2, train":
            break
    page.page.wait_for_timeout(1500)  # refreshed meanwhile, and the focus stays
    assert page.page.evaluate("document.activeElement?.getAttribute('aria-label')") == "Cancel job 2, train"
    page.page.keyboard.press("d")
    page.page.keyboard.press("d")  # would delete a cell of the notebook
    page.page.keyboard.press("Enter")
    page.job(2, "cancelled")
    assert page.page.locator(".jp-Cell").count() == cells


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("size", [(1280, 900), (1920, 1080)], ids=lambda size: str(size[0]))
def test_it_can_be_read_in_either_theme_and_by_a_screen_reader(town, lab, theme, size):
    steps.run(load(town), "generate-training", tiles=4)
    jobs = Jobs(load(town))
    bad = jobs.submit_command("bad", [sys.executable, "-c", "print('\\x1b[31mred\\x1b[0m'); raise SystemExit(3)"])
    bad.wait(PATIENCE)
    jobs.submit("train")
    jobs.submit_command("later", [sys.executable, "-c", ""])
    page = lab(town, size=size)
    page.command("apputils:change-theme", theme=f"JupyterLab {theme}")
    page.run_all()
    page.job(2, "running")
    for summary in page.page.locator(".hm-step summary").all():
        summary.click()
    page.page.mouse.move(0, 0)
    page.shot()
    problems = page.page.evaluate(CHECK.read_text(encoding="utf-8"))
    assert problems == []
    assert page.page.locator("[role=status]").filter(has_text="job 2, train, is running").count() == 1
