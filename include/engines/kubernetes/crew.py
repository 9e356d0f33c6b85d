"""A job's pods from the first to the last: made, watched, followed by others, cleaned up."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from include.engine_config import KubernetesEngine
from include.engines.kubernetes.arrivals import Arrivals
from include.engines.kubernetes.cluster import Cluster, open_cluster
from include.engines.kubernetes.fate import Fate, fate_of
from include.engines.kubernetes.followed import Follower
from include.engines.kubernetes.groups import Group, grouped
from include.engines.kubernetes.pod import (
    JOB_LABEL,
    PARTS,
    arguments,
    job_label,
    option_of,
    pod_name,
    pod_of,
    with_little_memory,
)
from include.engines.kubernetes.verdict import error_of
from include.errors import DaybreakError, OutOfMemory, PermanentError, TransientError
from include.part_ranges import indexes, written
from include.receipts import forget_failures
from include.run import Part, Receipt
from include.scoring import ScoringJob

log = logging.getLogger("daybreak")

POLL_SECONDS = 1.0

# An API server that restarts is back by then.
API_AWAY_SECONDS = 180.0


@dataclass(frozen=True)
class Kubernetes:
    """See `Engine`. `poll_seconds` is how often the pods are looked at."""

    config: KubernetesEngine
    poll_seconds: float = POLL_SECONDS

    def score(self, job: ScoringJob, parts: Sequence[Part]) -> Iterator[Receipt]:
        """See `Engine`. Raises what the failing part's own record says, or the cluster's words."""
        if not parts:
            return
        crew = Crew(self.config, open_cluster(self.config), job, self.poll_seconds)
        try:
            yield from crew.score(parts)
        finally:
            crew.dismiss()


@dataclass
class Crew:
    """The pods of one job, as long as someone waits for them."""

    config: KubernetesEngine
    cluster: Cluster
    job: ScoringJob
    poll_seconds: float = POLL_SECONDS
    groups: list[Group] = field(default_factory=list)
    followers: dict[str, Follower] = field(default_factory=dict)
    _over: set[str] = field(default_factory=set)

    def score(self, parts: Sequence[Part]) -> Iterator[Receipt]:
        arrivals = Arrivals(self.job, parts)
        yield from arrivals.there()
        self._take_over(arrivals)
        forget_failures(self.job, [index for index in arrivals.missing if not self._taken(index)])
        todo = [part for index, part in arrivals.missing.items() if not self._taken(index)]
        room = max(1, self.config.pods - len(self.groups))
        self.groups += [
            Group({part.index: part for part in group}) for group in grouped(todo, room)
        ]
        while self.groups:
            for group in self.groups:
                if group.pod is None:
                    self._start(group)
            time.sleep(self.poll_seconds)
            pods = self._pods()
            yield from arrivals.new()
            over = [
                (group, fate)
                for group in self.groups
                if (fate := self._fate(pods.get(group.pod or ""))).over
            ]
            if over:
                # A pod that is over has written its last receipt, maybe since the look above.
                yield from arrivals.there()
            for group, fate in over:
                self._conclude(group, fate, pods.get(group.pod or ""), arrivals)

    def _conclude(self, group: Group, fate: Fate, pod: Any, arrivals: Arrivals) -> None:
        """Whatever the pod's end looks like: the parts that are missing decide."""
        name = group.pod or ""
        if fate.state == "refused":
            # It has no log; the cluster's events know more, as long as it is there.
            said = self.cluster.warnings(name)
            fate = Fate("refused", f"{fate.words}. Events: {said}" if said else fate.words)
        else:
            self.followers.pop(name).finish()
        self._over.add(name)
        # It is over: nothing in it is left to be asked to end.
        self.cluster.delete(name, grace_seconds=0)
        group.parts = {i: part for i, part in group.parts.items() if i in arrivals.missing}
        if not group.parts:
            self.groups.remove(group)
            return
        group.pod = None
        where = f"pod {self.cluster.namespace}/{name}"
        error = error_of(fate, self.job, list(group.parts.values()), pod, where)
        if not self._patience(group, error):
            raise error
        log.warning("%s The parts %s start again.", error, group.text)

    def _patience(self, group: Group, error: DaybreakError) -> bool:
        """Whether the group starts again after `error`, and how."""
        if isinstance(error, OutOfMemory):
            group.little_memory = True
            return True
        if isinstance(error, PermanentError):
            return False
        group.lost += 1
        return group.lost <= self.config.retries

    def _take_over(self, arrivals: Arrivals) -> None:
        """Go on with the pods that someone else made for this job and did not live to see."""
        for name, pod in self._pods().items():
            told = indexes(option_of(pod.spec.containers[0].args or (), PARTS))
            theirs = {i: part for i in told if (part := arrivals.missing.get(i))}
            fresh = {i: part for i, part in theirs.items() if not self._taken(i)}
            if self._fate(pod).over or pod.metadata.deletion_timestamp is not None or not fresh:
                self.cluster.delete(name)
                continue
            log.info("%s scores the parts %s already", name, written(fresh))
            self.groups.append(Group(fresh, pod=name))
            self.followers[name] = Follower(self.cluster, name)

    def _fate(self, pod: Any) -> Fate:
        return fate_of(
            pod,
            dt.datetime.now(dt.UTC),
            schedule_seconds=self.config.schedule_seconds,
            startup_seconds=self.config.startup_seconds,
        )

    def _taken(self, index: int) -> bool:
        return any(index in group.parts for group in self.groups)

    def _start(self, group: Group) -> None:
        args = arguments(self.config, self.job.uri, group.text)
        if group.little_memory:
            args = with_little_memory(args, max(part.rows for part in group.parts.values()))
        name = pod_name(self.job)
        self.cluster.create(
            pod_of(self.config, self.job, args, name=name, namespace=self.cluster.namespace)
        )
        group.pod = name
        self.followers[name] = Follower(self.cluster, name)
        log.info("%s scores the parts %s", name, group.text)

    def _pods(self) -> dict[str, Any]:
        """The job's pods by name; an API that is away for a moment is waited for."""
        until = time.monotonic() + API_AWAY_SECONDS
        while True:
            try:
                return self.cluster.pods(f"{JOB_LABEL}={job_label(self.job.uri)}")
            except TransientError:
                if time.monotonic() > until:
                    raise
                time.sleep(max(self.poll_seconds, 1.0))

    def dismiss(self) -> None:
        """Delete the pods that are left and see them go: nobody scores once this is over."""
        names = {group.pod for group in self.groups if group.pod}
        until = time.monotonic() + self.config.grace_seconds + 30
        try:
            for name in names:
                self.cluster.delete(name, self.config.grace_seconds)
            names |= self._over
            while names & self._pods().keys() and time.monotonic() < until:
                time.sleep(self.poll_seconds)
        except (TransientError, PermanentError) as error:
            # Of no interest beside what ended the step; pods end by their own deadline.
            log.warning("pods of %s may be left: %s", self.job.uri, error)
        for follower in self.followers.values():
            follower.finish()
