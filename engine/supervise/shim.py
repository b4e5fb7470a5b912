"""The small process above each attempt: it outlives the engine and leaves nothing behind.

Run as ``python -I -S shim.py <attempt folder>`` with the attempt's and the lane's lock descriptors
inherited. ``shim.py --spare <socket> <worker command>`` starts the worker in advance and waits for
the folder and the descriptors.

Standard library only and self-contained: nothing else is loaded, so an upgrade may replace every
file while runs go on. It is single-threaded, which PDEATHSIG requires (the signal comes when the
*thread* that started the child dies).

Signals: TERM asks the worker to stop and starts the grace period; USR1 kills now; USR2 freezes the
worker's group and CONT lets it go on. The locks are free when this whole tree is dead, not before.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    # the typing module costs 5 ms that nothing here needs
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

HANDLED = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
    signal.SIGCHLD,
}


def crash_point(name: str) -> None:
    """Die here when the fault harness armed ``name`` (see ``engine.supervise.crash``)."""
    armed = os.environ.get("MODELOPS_CRASH", "")
    if not armed or name not in armed.replace(":1", "").split(","):
        return
    once = os.environ.get("MODELOPS_CRASH_ONCE")
    if once:
        try:
            os.close(os.open(os.path.join(once, name), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)


def prctl(option: int, value: int) -> None:
    """``prctl(2)``; raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def write_durably(folder: str, name: str, value: dict[str, Any], ballast: str = "") -> None:
    """A JSON file that is whole or not there; the ballast pays when the disk is full."""
    for last_try in (False, True):
        try:
            partial = os.path.join(folder, f".{name}.part")
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(value).encode())
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(partial, os.path.join(folder, name))
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            return
        except OSError as error:
            if last_try or error.errno not in (errno.ENOSPC, errno.EDQUOT) or not ballast:
                raise
            if os.path.exists(ballast):
                os.unlink(ballast)


def start_ticks(pid: int) -> int:
    """The kernel's start time of a process: with the pid it names one process for ever."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[19])


def boot_id() -> str:
    """Differs from boot to boot."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def start_worker(argv: list[str], cwd: str, log: str, keep: int = -1) -> int:
    """Fork and exec the worker in a group of its own, bound to die with this process.

    ``keep`` is a descriptor that the worker inherits besides the locks.
    """
    me = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:
            os._exit(1)
        null = os.open(os.devnull, os.O_RDONLY)
        out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.close(null)
        os.close(out)
        os.chdir(cwd)
        if keep >= 0:
            os.set_inheritable(keep, True)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        os.execv(argv[0], argv)  # noqa: S606  no shell is wanted
    except BaseException as error:  # noqa: BLE001  the forked child must never return
        os.write(2, f"the worker could not be started: {error}\n".encode())
    os._exit(127)


class Supervisor:
    """Waits for the worker, carries signals to it, and enforces the grace period."""

    def __init__(self, worker: int, grace: float) -> None:
        self.worker = worker
        self.grace = grace
        self.deadline: float | None = None
        self.stop: str | None = None
        self.status = 0
        self.usage = (0, 0.0)

    def run(self) -> None:
        """Return when the worker is dead and reaped."""
        while not self.reap():
            if self.deadline is None:
                number = signal.sigwaitinfo(HANDLED).si_signo
            else:
                left = max(0.0, self.deadline - time.monotonic())
                got = signal.sigtimedwait(HANDLED, left)
                number = got.si_signo if got else 0
                if number == 0:
                    self.kill("grace")
            self.carry(number)

    def carry(self, number: int) -> None:
        """Act on one signal."""
        if number in (signal.SIGTERM, signal.SIGINT) and self.stop is None:
            self.stop = "term"
            self.deadline = time.monotonic() + self.grace
            send(self.worker, signal.SIGTERM)
            # a frozen worker can't save its checkpoint
            send_group(self.worker, signal.SIGCONT)
        elif number == signal.SIGUSR1:
            self.kill("kill")
        elif number == signal.SIGUSR2:
            send_group(self.worker, signal.SIGSTOP)
        elif number == signal.SIGCONT:
            send_group(self.worker, signal.SIGCONT)

    def kill(self, why: str) -> None:
        """KILL the worker's group."""
        self.stop = why
        self.deadline = None
        send_group(self.worker, signal.SIGKILL)

    def reap(self) -> bool:
        """Collect dead children; True when the worker is among them."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.worker:
                self.status = status
                self.usage = (usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)
                return True


def send(pid: int, number: int) -> None:
    """``kill`` that does not mind a process that has just died."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def send_group(pgid: int, number: int) -> None:
    """``killpg`` likewise. The worker makes its group itself: before that, signal it alone."""
    try:
        os.killpg(pgid, number)
    except ProcessLookupError:
        send(pgid, number)


def children() -> list[int]:
    """Pids of this process's children; the orphans of the worker's tree are among them."""
    me = os.getpid()
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if parent == me:
            found.append(int(name))
    return found


def sweep() -> int:
    """Kill and reap what the worker left behind, to the last process; returns how many."""
    swept = 0
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                swept += 1
        except ChildProcessError:
            return swept
        for pid in children():
            send(pid, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.02)


class Spare:
    """A worker started in advance: it has its imports done and waits for its one attempt."""

    def __init__(self, control: int, argv: list[str]) -> None:
        # 6 ms that an ordinary attempt does without
        import socket

        self.control = socket.socket(fileno=control)
        self.ours, theirs = socket.socketpair()
        self.worker = start_worker([*argv, str(theirs.fileno())], "/", os.devnull, theirs.fileno())
        theirs.close()
        self.locks: list[int] = []
        self.message = b""

    def wait(self) -> str | None:
        """The folder of the attempt, or None when the engine is gone."""
        import socket

        while not self.message.endswith(b"\n"):
            data, fds, _, _ = socket.recv_fds(self.control, 65536, 4)
            if not data:
                return None
            self.message += data
            self.locks += fds
        self.control.close()
        return str(json.loads(self.message)["folder"])

    def hand_over(self) -> bool:
        """Give the attempt and its locks to the worker; False when it has died meanwhile."""
        import socket

        if os.waitpid(self.worker, os.WNOHANG)[0]:
            return False
        try:
            socket.send_fds(self.ours, [self.message], self.locks)
        except OSError:
            return False
        self.ours.close()
        return True


def main() -> None:
    """One attempt, from its first durable word to its last."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    spare = None
    if sys.argv[1] == "--spare":
        spare = Spare(int(sys.argv[2]), sys.argv[3:])
        folder = spare.wait()
        if folder is None:
            send_group(spare.worker, signal.SIGKILL)
            sweep()
            return
    else:
        folder = sys.argv[1]
    run(folder, spare)


def run(folder: str, spare: Spare | None) -> None:
    """Begin, supervise, sweep, and write how it ended."""
    with open(os.path.join(folder, "spec.json"), "rb") as file:
        spec = json.load(file)
    ballast = spec["ballast"]
    crash_point("shim.start")
    me = {"pid": os.getpid(), "ticks": start_ticks(os.getpid()), "boot": boot_id()}
    write_durably(folder, "begun.json", {**me, "t": time.time()}, ballast)
    crash_point("shim.begun")
    if spare is not None and spare.hand_over():
        worker = spare.worker
    else:
        worker = start_worker(spec["argv"], spec["work_dir"], spec["log"])
    crash_point("shim.forked")
    supervisor = Supervisor(worker, float(spec["grace_s"]))
    supervisor.run()
    crash_point("shim.reaped")
    send_group(worker, signal.SIGKILL)
    swept = sweep()
    status = supervisor.status
    signalled = os.WIFSIGNALED(status)
    ended = {
        "code": None if signalled else os.WEXITSTATUS(status),
        "signal": os.WTERMSIG(status) if signalled else None,
        "stop": supervisor.stop,
        "max_rss_bytes": supervisor.usage[0],
        "cpu_s": round(supervisor.usage[1], 3),
        "swept": swept,
        "t": time.time(),
    }
    write_durably(folder, "exit.json", ended, ballast)
    crash_point("shim.exited")


if __name__ == "__main__":
    main()
