"""What became of a pod, as its status says: whether to wait, to try again or to give up.

A pod that succeeded has not thereby scored its parts: that is what receipts say.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from include.termination import RESUMABLE

if TYPE_CHECKING:
    from kubernetes.client import V1Pod

# What the kubelet cannot mend by trying again.
_HOPELESS = {
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
}
_PULLING = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"}
# A registry that is away or busy is waited for, as long as a pod may take to start.
_REGISTRY_BUSY = (
    "too many requests",
    "rate limit",
    "timeout",
    "timed out",
    "service unavailable",
    "bad gateway",
    "temporarily",
    "qps exceeded",
)
# The node's doing, not the command's: another node may finish it.
_LOST = {
    "Evicted",
    "Preempting",
    "NodeLost",
    "NodeShutdown",
    "Shutdown",
    "Terminated",
    "NodeAffinity",
    "UnexpectedAdmissionError",
    "OutOfcpu",
    "OutOfmemory",
    "OutOfpods",
}

State = Literal["live", "finished", "failed", "lost", "memory", "refused"]


@dataclass(frozen=True)
class Fate:
    """`live` runs or may yet; `finished` ended with 0; `failed` says so itself and would again;
    `lost` was ended from outside, or may be tried again; `memory` was killed for it; `refused`
    cannot start. `words` say why, in Kubernetes' own where it has some.
    """

    state: State
    words: str = ""

    @property
    def over(self) -> bool:
        return self.state != "live"


def fate_of(
    pod: V1Pod | None, now: dt.datetime, *, schedule_seconds: int, startup_seconds: int
) -> Fate:
    """Judge a pod; None is one that the cluster no longer has.

    It may wait `schedule_seconds` for a node, and `startup_seconds` there until it runs.
    """
    if pod is None:
        return Fate("lost", "the pod was deleted")
    status = pod.status
    if status.phase == "Succeeded":
        return Fate("finished")
    ended = _ended(pod)
    if status.phase == "Failed" or ended is not None:
        return _failed(pod, ended)
    if pod.metadata.deletion_timestamp is not None and status.phase == "Pending":
        return Fate("lost", "the pod was deleted before it ran")
    if status.phase == "Unknown":
        # The node is away; the cluster deletes the pod once it gives the node up.
        return Fate("live", "its node does not answer")
    if status.phase == "Pending":
        return _waiting(pod, now, schedule_seconds, startup_seconds)
    return Fate("live")


def _ended(pod: V1Pod) -> Any:
    """How the container ended; None where it did not, or was never there."""
    statuses = pod.status.container_statuses or []
    return next((each.state.terminated for each in statuses if each.state.terminated), None)


def _failed(pod: V1Pod, ended: Any) -> Fate:
    reason, message = pod.status.reason or "", (pod.status.message or "").strip()
    if reason == "DeadlineExceeded":
        return Fate("failed", f"{reason}: {message or 'it ran for too long'}")
    if reason in _LOST or _disrupted(pod):
        return Fate("lost", ": ".join(filter(None, (reason or _disrupted(pod), message))))
    if ended is None:
        return Fate("lost", ": ".join(filter(None, (reason, message))) or "it ended unseen")
    if ended.exit_code == 0:
        return Fate("finished")
    if ended.reason == "OOMKilled":
        return Fate("memory", "OOMKilled")
    said = (ended.message or "").strip()
    if ended.exit_code == RESUMABLE or ended.signal or ended.exit_code > 128:
        # Beyond 128 is the signal of whoever ended it: a node that drains, a person.
        return Fate("lost", _tail(said) or f"it ended with exit code {ended.exit_code}")
    if ended.reason in ("StartError", "ContainerCannotRun"):
        return Fate("refused", f"{ended.reason}: {said}")
    return Fate("failed", _tail(said) or f"it ended with exit code {ended.exit_code}")


def _disrupted(pod: V1Pod) -> str:
    """The reason of a disruption, as Kubernetes 1.26 and newer give it."""
    for condition in pod.status.conditions or []:
        if condition.type == "DisruptionTarget" and condition.status == "True":
            return str(condition.reason or "DisruptionTarget")
    return ""


def _waiting(pod: V1Pod, now: dt.datetime, schedule_seconds: int, startup_seconds: int) -> Fate:
    statuses = pod.status.container_statuses or []
    waiting = next((each.state.waiting for each in statuses if each.state.waiting), None)
    if waiting is not None:
        said = f"{waiting.reason}: {(waiting.message or '').strip()}"
        if waiting.reason in _HOPELESS:
            return Fate("refused", said)
        if waiting.reason in _PULLING and not any(sign in said.lower() for sign in _REGISTRY_BUSY):
            return Fate("refused", said)
    scheduled = next(
        (each for each in pod.status.conditions or [] if each.type == "PodScheduled"), None
    )
    since = pod.metadata.creation_timestamp
    if scheduled is None or scheduled.status != "True":
        if since is not None and (now - since).total_seconds() > schedule_seconds:
            why = (scheduled.message if scheduled else "") or "no node took it"
            return Fate("refused", f"Unschedulable for {schedule_seconds} s: {why.rstrip('.')}")
        return Fate("live", (scheduled.message or "") if scheduled else "")
    since = scheduled.last_transition_time or since
    if since is not None and (now - since).total_seconds() > startup_seconds:
        why = f" ({waiting.reason})" if waiting is not None and waiting.reason else ""
        return Fate("refused", f"it has a node, and did not start in {startup_seconds} s{why}")
    return Fate("live")


def _tail(text: str) -> str:
    """The last of what the container logged: a traceback's last line, mostly."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[-500:] if lines else ""
