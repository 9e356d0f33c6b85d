"""A person in front of Airflow's pages: a real headless Chromium, driven by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import FrameLocator, Locator, Page, expect, sync_playwright

from daybreak.local_airflow import LOGIN
from tests.e2e.airflow.deployment import DagRun, Deployment

PATIENCE_MS = 240_000
# What a colour of any notation is on the screen: its red, green and blue.
PAINTED = """element => {
    const paper = document.createElement("canvas").getContext("2d");
    paper.fillStyle = getComputedStyle(element).backgroundColor;
    paper.fillRect(0, 0, 1, 1);
    return [...paper.getImageData(0, 0, 1, 1).data].slice(0, 3);
}"""
SIZE = {"width": 1440, "height": 900}


def chromium() -> str | None:
    """The system's Chromium; Playwright's own is not downloaded."""
    names = (os.environ.get("CHROMIUM"), "chromium", "google-chrome")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@contextmanager
def browsing(program: str, deployment: Deployment, screenshots: Path) -> Iterator[Browser]:
    """A browser that has logged in."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            timeout=PATIENCE_MS,
        )
        try:
            context = launched.new_context(
                base_url=deployment.airflow.address,
                viewport={"width": SIZE["width"], "height": SIZE["height"]},
                reduced_motion="reduce",
                locale="en-GB",
                timezone_id="UTC",
            )
            context.set_default_timeout(PATIENCE_MS)
            # Each page as a person sees it first: Airflow keeps the view that was chosen last.
            context.add_init_script("localStorage.clear()")
            browser = Browser(context.new_page(), deployment, screenshots)
            browser.log_in()
            yield browser
        finally:
            launched.close()


@dataclass(frozen=True)
class Browser:
    page: Page
    deployment: Deployment
    screenshots: Path

    def log_in(self) -> None:
        page = self.page
        page.goto("/")
        page.locator("input[name=username]").fill(LOGIN)
        page.locator("input[name=password]").fill(self.deployment.airflow.password)
        # Disabled until both are filled.
        page.locator("button[type=submit]:not([disabled])").click()
        page.get_by_test_id("nav-dags-link").wait_for()

    def open_form(self, dag: str) -> Locator:
        """The form that a click on Trigger opens, with all its fields."""
        self.page.goto(f"/dags/{dag}")
        self.page.get_by_test_id("trigger-dag-button").click()
        form = self.page.locator("[role=dialog][data-scope=dialog][data-state=open]")
        form.locator("[name=element_dry_run]").wait_for(state="attached")
        return form

    def trigger(self, form: Locator) -> DagRun:
        """Send the form; the run that it made."""
        dag = self.page.url.rpartition("/dags/")[2].partition("/")[0].partition("?")[0]
        before = {run.id for run in self.deployment.runs(dag)}
        form.get_by_test_id("trigger-dag-submit").click()
        made = self.deployment.until(
            lambda: next((r for r in self.deployment.runs(dag) if r.id not in before), None),
            "a run of the form",
        )
        self.rest()
        return made

    def rest(self) -> None:
        """Leave Airflow's pages, which draw themselves anew every few seconds."""
        self.page.goto("about:blank")

    def colour(self, run: DagRun) -> str:
        """The colour of the badge on the page of a run that has ended: green, red or its code."""
        self.page.goto(run.page)
        badge = self.page.get_by_test_id("header-card").get_by_test_id("state-badge").first
        expect(badge).to_have_text(re.compile("Success|Failed"))
        red, green, blue = badge.evaluate(PAINTED)
        if green > red + blue:
            return "green"
        return "red" if red > green + blue else f"rgb({red}, {green}, {blue})"

    def open_graph(self, run: DagRun) -> Locator:
        """The graph of a run, with the states of its tasks, over the whole width of the page."""
        self.page.goto(run.page)
        self.page.get_by_label("Show Graph").click()
        self.page.get_by_label("Collapse Details Panel").click()
        graph = self.page.locator(".react-flow")
        graph.locator(".react-flow__node").first.wait_for()
        # Only what is in sight is drawn, and the graph was laid out for the narrower page.
        self.fit()
        return graph

    def fit(self) -> None:
        """Let the graph, where the page has one, show all of its nodes."""
        control = self.page.locator(".react-flow__controls-fitview")
        if control.is_visible():
            control.click()

    def open_grid(self, dag: str) -> Page:
        """The grid of a DAG's runs, over the whole width of the page."""
        self.page.goto(f"/dags/{dag}")
        self.page.get_by_label("Collapse Details Panel").click()
        return self.page

    def report(self, run: DagRun) -> FrameLocator:
        """The run's report, opened by its tab on the run's page."""
        self.page.goto(run.page)
        self.page.get_by_role("link", name="Report", exact=True).click()
        frame = self.page.frame_locator("iframe")
        frame.get_by_text("Daybreak run report").wait_for()
        return frame

    def question(self, run: DagRun) -> Locator:
        """The page of a run's required action."""
        self.page.goto(f"{run.page}/tasks/approval.ask/required_actions")
        approve = self.page.get_by_test_id("hitl-option-Approve")
        approve.wait_for()
        return self.page.locator("body")

    def answer(self, option: str, reason: str) -> None:
        """Give an answer on the page of the question."""
        self.page.locator("[name=element_reason]").fill(reason)
        with self.page.expect_response(lambda sent: sent.request.method == "PATCH"):
            self.page.get_by_test_id(f"hitl-option-{option}").click()
        self.rest()

    def shoot(
        self,
        name: str,
        *,
        width: int = SIZE["width"],
        height: int = SIZE["height"],
        of: Locator | None = None,
    ) -> None:
        """Keep what is on the page, or on a part `of` it, once it has come to rest."""
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.wait_for_load_state("networkidle")
        self.fit()
        self.page.wait_for_timeout(1500)
        file = self.screenshots / f"{name}.png"
        if of is None:
            self.page.screenshot(path=file)
        else:
            of.screenshot(path=file)
        self.page.set_viewport_size({"width": SIZE["width"], "height": SIZE["height"]})
