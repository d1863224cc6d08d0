"""A real Slurm with accounting on this machine, started as root without systemd, and taken down again.

It looks like a small piece of Finisterrae III, whatever the machine has: two nodes that claim 64 CPUs and 256000 MB of
memory each, one of them two A100 GPUs, and a front end that refuses jobs which do not state time and memory.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ACCOUNT = "elagage"
# A node with GPUs, and one without: a driver may sit on one while a timing has the other to itself. The number is in
# them because Slurm names cgroups by nodes.
GPU_NODE, CPU_NODE = f"a100-{os.getpid()}", f"ilk-{os.getpid()}"

# Limits in seconds; starting takes about 5 s on an idle machine, and a busy one must not fail for that.
READY_LIMIT = 60
STOP_LIMIT = 20

CLIENTS = ("sacct", "sacctmgr", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
PACKAGE_OF = {
    "munged": "munge",
    "mariadbd": "mariadb-server-core",
    "mariadb-admin": "mariadb-client",
    "slurmdbd": "slurmdbd",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}

# Memory is limited by cgroups, as on the real machine: a job over its --mem ends as OUT_OF_MEMORY, where the polling of
# jobacct_gather (OverMemoryKill) ends it as FAILED. The name of the node is in those of its cgroups and must be unique.
SLURM_CONF = """\
ClusterName=elagage
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid

AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={slurmdbd}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
JobSubmitPlugins=lua
EnforcePartLimits=ALL

ProctrackType=proctrack/cgroup
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
TaskPlugin=task/cgroup
OverTimeLimit=0
KillWait=2

SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
MinJobAge=300

GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=DEFAULT Sockets=2 CoresPerSocket=32 RealMemory=256000
NodeName={cpu_node} NodeHostname={host} NodeAddr=127.0.0.1 Port={cpu_port}
NodeName={gpu_node} NodeHostname={host} NodeAddr=127.0.0.1 Port={gpu_port} Gres=gpu:a100:2 Weight=10
PartitionName=short Nodes=ALL Default=YES MaxTime=6:00:00
PartitionName=medium Nodes=ALL MaxTime=3-00:00:00
"""

SLURMDBD_CONF = """\
DbdHost=localhost
DbdPort={slurmdbd}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""

# slurmd counts GPUs by their device files and opens none, so that any two devices which all machines have will do.
GRES_CONF = """\
AutoDetect=off
NodeName={gpu_node} Name=gpu Type=a100 File=/dev/null
NodeName={gpu_node} Name=gpu Type=a100 File=/dev/zero
"""

CGROUP_CONF = "IgnoreSystemd=yes\nConstrainRAMSpace=yes\n"

JOB_SUBMIT_LUA = """\
function slurm_job_submit(job, partitions, user)
    if job.time_limit == slurm.NO_VAL or job.pn_min_memory == slurm.NO_VAL64 then
        slurm.log_user("a job must state its time and its memory: --time, and --mem or --mem-per-cpu")
        return slurm.ERROR
    end
    return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, user)
    return slurm.SUCCESS
end
"""


def absent() -> list[str]:
    """The Debian packages whose programs are not on the PATH."""
    return [package for program, package in PACKAGE_OF.items() if not shutil.which(program)]


def missing() -> str | None:
    """Why no cluster can be started on this machine, or None if one can."""
    if os.geteuid() != 0:
        return "a Slurm cluster starts jobs for users and therefore needs root"
    if not any(os.access(path, os.W_OK) for path in ("/sys/fs/cgroup/memory", "/sys/fs/cgroup/cgroup.procs")):
        return "no cgroup to write to, by which Slurm limits the memory of jobs"
    if absent() and not shutil.which("apt-get"):
        return f"no apt-get to install {', '.join(absent())} with"
    return None


def install(packages: list[str]) -> None:
    """Install Debian packages without starting their services; raises CalledProcessError if apt-get fails."""
    policy = Path("/usr/sbin/policy-rc.d")
    added = not policy.exists()
    if added:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *packages]):
            env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            subprocess.run(["apt-get", "--quiet", *command], env=env, stdout=sys.stderr, check=True)
    finally:
        if added:
            policy.unlink()


def free_ports(count: int) -> list[int]:
    """Ports of localhost that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def configure(folder: Path) -> None:
    """Write the configuration files, the key and the folders of the daemons."""
    ports = dict(zip(("slurmctld", "slurmdbd", "cpu_port", "gpu_port"), free_ports(4), strict=True))
    values = {"folder": folder, "host": socket.gethostname().split(".")[0], "cpu_node": CPU_NODE, "gpu_node": GPU_NODE}
    values |= ports
    for name in ("slurmctld", f"slurmd-{CPU_NODE}", f"slurmd-{GPU_NODE}", "bin"):
        (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    (folder / "slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
    (folder / "gres.conf").write_text(GRES_CONF.format(**values))
    (folder / "cgroup.conf").write_text(CGROUP_CONF)
    (folder / "job_submit.lua").write_text(JOB_SUBMIT_LUA)
    (folder / "munge.key").write_bytes(os.urandom(128))
    # Snakemake's plugin calls them without the variable SLURM_CONF when it finds itself in a Slurm job.
    for program in CLIENTS:
        wrapper = folder / "bin" / program
        wrapper.write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which(program)} "$@"\n')
        wrapper.chmod(0o755)
    for secret in ("slurmdbd.conf", "munge.key"):
        (folder / secret).chmod(0o600)


def answers(command: list[str], env: dict[str, str], expected: str) -> bool:
    """Whether a command ends well within 5 seconds and prints what is expected, a regular expression."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and re.search(expected, done.stdout) is not None


@contextlib.contextmanager
def daemon(folder: Path, env: dict[str, str], command: list[str], ask: list[str], answer: str) -> Iterator[None]:
    """Run a daemon in the foreground, its output in a log below the folder, once `ask` prints `answer`.

    Raises RuntimeError with the end of the log if it ends or does not answer within READY_LIMIT seconds.
    """
    log = folder / f"{'-'.join(word for word in command if not word.startswith('-'))}.log"
    with log.open("w") as output:
        # A session of its own: a Ctrl-C in the terminal is for the caller, which stops the daemons in order.
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        end = time.monotonic() + READY_LIMIT
        while not answers(ask, env, answer):
            if process.poll() is not None or time.monotonic() > end:
                why = "is not ready" if process.poll() is None else f"ended with status {process.returncode}"
                raise RuntimeError(f"{command[0]} {why}; the end of {log}:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def jobs_cancelled(env: dict[str, str]) -> Iterator[None]:
    """On leaving, cancel all jobs and wait for their end, for STOP_LIMIT seconds at most."""
    try:
        yield
    finally:
        subprocess.run(["scancel", "--user=root"], env=env, timeout=STOP_LIMIT)
        end = time.monotonic() + STOP_LIMIT
        while not answers(["squeue", "--noheader"], env, r"^$") and time.monotonic() < end:
            time.sleep(0.1)


def processes(env: dict[str, str]) -> list[int]:
    """The other living processes that were started with the SLURM_CONF of this environment."""
    mark = f"SLURM_CONF={env['SLURM_CONF']}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
    return [each for each in found if each != os.getpid()]


@contextlib.contextmanager
def nothing_left(env: dict[str, str]) -> Iterator[None]:
    """On leaving, kill whatever is left; raises RuntimeError if something outlives that for STOP_LIMIT seconds."""
    try:
        yield
    finally:
        end = time.monotonic() + STOP_LIMIT
        while left := processes(env):
            if time.monotonic() > end:
                raise RuntimeError(f"processes of the Slurm cluster outlive it: {left}")
            for each in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)
            time.sleep(0.1)
        for node in (CPU_NODE, GPU_NODE):
            for cgroup in sorted(Path("/sys/fs/cgroup").glob(f"*/slurm_{node}/**/"), reverse=True):
                cgroup.rmdir()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise SystemExit, as Ctrl-C does KeyboardInterrupt: it is left in order."""

    def end(number, _):
        sys.exit(128 + number)

    before = {each: signal.signal(each, end) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Slurm cluster whose files all lie below a folder, and yield the environment variables by which to use it.

    On leaving, jobs are cancelled and no process is left. Raises CalledProcessError if packages cannot be installed or
    the account cannot be added, RuntimeError if a daemon does not start.
    """
    if absent():
        install(absent())
    folder = folder.resolve()
    configure(folder)
    variables = {"SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}/bin:{os.environ['PATH']}"}
    # MariaDB's client library, and so slurmdbd, which has no setting for it, takes the socket from this variable.
    env = os.environ | variables | {"MYSQL_UNIX_PORT": f"{folder}/mariadb.socket"}
    data = f"--datadir={folder}/mariadb"
    small = ["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"]
    munge = f"{folder}/munge"
    munge_files = [f"--pid-file={munge}.pid", f"--seed-file={munge}.seed"]
    mariadb_files = [f"--socket={folder}/mariadb.socket", f"--pid-file={folder}/mariadb.pid"]
    with ended_by_signals(), nothing_left(env), contextlib.ExitStack() as stack:

        def start(command: list[str], ask: list[str], answer: str) -> None:
            stack.enter_context(daemon(folder, env, command, ask, answer))

        start(
            ["munged", "--foreground", "--force", f"--socket={munge}.socket", f"--key-file={munge}.key", *munge_files],
            ["munge", "--no-input", f"--socket={munge}.socket"],
            "MUNGE:",
        )
        create = ["mariadb-install-db", "--no-defaults", data, *small[:1], "--user=root", "--skip-test-db"]
        subprocess.run(
            [*create, "--auth-root-authentication-method=normal"], env=env, check=True, stdout=subprocess.DEVNULL
        )
        start(
            ["mariadbd", "--no-defaults", data, *small, "--user=root", "--skip-networking", *mariadb_files],
            ["mariadb-admin", "--no-defaults", "ping"],
            "alive",
        )
        start(["slurmdbd", "-D"], ["sacctmgr", "show", "cluster"], "Cluster")
        root = ["user", "root", f"account={ACCOUNT}", f"defaultaccount={ACCOUNT}"]
        for entity in (["cluster", "elagage"], ["account", ACCOUNT], root):
            subprocess.run(["sacctmgr", "--immediate", "add", *entity], env=env, check=True, stdout=subprocess.DEVNULL)
        start(["slurmctld", "-D"], ["scontrol", "ping"], "is UP")
        for node in (CPU_NODE, GPU_NODE):
            start(["slurmd", "-D", "-N", node], ["sinfo", "--noheader", f"--nodes={node}", "--format=%T"], "^idle")
        stack.enter_context(jobs_cancelled(env))
        yield variables


def main() -> int:
    """Run a command inside a cluster of its own and return the command's exit status."""
    parser = argparse.ArgumentParser(description="Run COMMAND with a Slurm cluster of its own, as root.")
    parser.add_argument("--dry-run", action="store_true", help="say what would be installed and started, and no more")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="such as: bash, or pytest -m slurm"
    )
    options = parser.parse_args()
    command = options.command
    if why := missing():
        parser.error(why)
    if options.dry_run:
        print(f"To be installed with apt-get, and left there: {', '.join(absent()) or 'nothing'}.")
        print("To be started, and stopped afterwards: Slurm's daemons, MariaDB and MUNGE, on files of their own.")
        return 0
    if not command:
        parser.error("COMMAND is missing")
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder)) as variables:
        status = subprocess.run(command, env=os.environ | variables).returncode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
