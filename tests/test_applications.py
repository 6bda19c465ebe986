"""Who holds what of a broker, and how much of it one may."""

import pytest

from p11host.applications import Applications, Caller, Quota, Running
from p11host.errors import P11HostError
from p11host.limits import limits


def caller(*, door: int = 1, pid: int = 10, uid: int = 1000, channel: int = 1) -> Caller:
    """Return a caller."""
    return Caller(door, pid, uid, "test", channel)


def test_a_process_is_one_application() -> None:
    """Two channels of a process are one application; its forked child at the same door is another."""
    applications = Applications()
    for number, who in enumerate([caller(channel=1), caller(channel=2), caller(pid=11)]):
        applications.add(who, Running("soft", number))
    seen = list(applications.seen_by(1000, privileged=False))

    assert [(10, 2), (11, 1)] == [(each.caller.pid, len(each.helpers)) for each in seen]


def test_the_same_pid_at_another_door_is_another() -> None:
    """A pid that is used again does not inherit an application."""
    assert caller(door=1).key != caller(door=2).key


def test_unknown_processes_are_not_one() -> None:
    """Processes of another pid namespace, which the kernel shows as 0, are kept apart."""
    assert caller(pid=0, channel=1).key != caller(pid=0, channel=2).key


def test_is_gone_with_its_last_helper() -> None:
    """An application is known while it has a helper."""
    applications = Applications()
    one, two = Running("a", 1), Running("b", 2)
    applications.add(caller(), one)
    applications.add(caller(), two)
    applications.remove(caller(), one)
    assert applications
    applications.remove(caller(), two)

    assert not applications


def test_generations_are_limited() -> None:
    """An application that asks again and again does not fill the machine with helpers."""
    applications = Applications()
    for pid in range(limits().generations):
        applications.check_room(caller(), "soft")
        applications.add(caller(), Running("soft", pid))

    with pytest.raises(
        P11HostError, match=f"{limits().generations} helpers of module soft still run for process 10"
    ):
        applications.check_room(caller(), "soft")
    applications.check_room(caller(), "other")
    applications.check_room(caller(pid=11), "soft")
    applications.remove(caller(), Running("soft", 0))
    applications.check_room(caller(), "soft")


def test_users_see_their_own() -> None:
    """A user sees the applications that are his, and a privileged one all."""
    applications = Applications()
    applications.add(caller(uid=1), Running("a", 1))
    applications.add(caller(uid=2, pid=20), Running("a", 2))

    assert [20] == [each.caller.pid for each in applications.seen_by(2, privileged=False)]
    assert [10, 20] == [each.caller.pid for each in applications.seen_by(2, privileged=True)]


def test_quota() -> None:
    """One user's share is not another's, and what is given back can be taken again."""
    quota = Quota(5)

    assert quota.take(1, 3)
    assert not quota.take(1, 3)
    assert quota.take(2, 5)
    quota.give(1, 1)
    assert quota.take(1, 3)
    assert not quota.take(1, 1)
