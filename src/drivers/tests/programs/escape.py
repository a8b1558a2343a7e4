"""Tries to get out of an instance, one way after the other. Prints `escaped NAME` for each that works, and how many
were tried. What a way aims at is in the environment: files, sockets and processes of others."""

import ctypes
import errno
import os
import platform
import socket
import subprocess
import sys

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
HERE = os.getcwd()
WAYS = []


def way(harmless=False):
    def register(function):
        WAYS.append((function.__name__, function, harmless))
        return function

    return register


def call(number, *args, refused=(errno.EPERM, errno.ENOSYS)):
    """A system call that is refused before its arguments are looked at; any other answer is a way in."""
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in args])
    code = ctypes.get_errno()
    if result == -1 and code in refused:
        raise OSError(code, "refused")


def c(function, *args):
    if function(*args) == -1:
        raise OSError(ctypes.get_errno(), "refused")


@way()
def mount_something():
    os.makedirs("mount", exist_ok=True)
    c(libc.mount, b"tmpfs", b"mount", b"tmpfs", 0, None)


@way()
def bind_something():
    os.makedirs("mount", exist_ok=True)
    c(libc.mount, b"/", b"mount", None, 4096, None)


@way()
def make_the_system_writable():
    c(libc.mount, None, b"/usr", None, 32 | 4096, None)


@way()
def unmount_tmp():
    c(libc.umount2, b"/tmp", 2)


@way()
def change_root():
    os.chroot(".")


@way()
def new_user_namespace():
    c(libc.unshare, 0x10000000)


@way()
def new_mount_namespace():
    c(libc.unshare, 0x00020000)


@way()
def clone_into_a_user_namespace():
    if X86:
        call(56, 0x10000000 | 17, 0, 0, 0, 0)
    else:
        call(220, 0x10000000 | 17, 0, 0, 0, 0)


@way()
def clone3():
    call(435, 0, 0, refused=(errno.ENOSYS,))


def all_refused(numbers):
    for number in numbers:
        try:
            call(number, -1, -1, -1, -1, -1)
        except OSError:
            continue
        print("not refused: call", number, flush=True)
        return
    raise OSError(errno.EPERM, "all of them")


@way()
def calls_that_change_the_machine():
    # pidfd_getfd, io_uring, the new calls of mounting and quotas: the same numbers on all machines.
    all_refused((425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442, 443, 467))


@way()
def older_calls_that_change_the_machine():
    if not X86:
        raise OSError(errno.ENOSYS, "they have other numbers")
    # ptrace, syslog, pivot_root, adjtimex, acct, settimeofday, mount, umount2, swapon, swapoff, reboot, names of the
    # machine, iopl, ioperm, modules, quotactl, clock_settime, kexec_load, keys, unshare, perf_event_open, fanotify_init,
    # handles of files, clock_adjtime, setns, memory of others, kcmp, finit_module, kexec_file_load, bpf, userfaultfd.
    all_refused((101, 103, 155, 159, 163, 164, 165, 166, 167, 168, 169, 170, 171, 172, 173, 175, 176, 179, 227, 246,
                 248, 249, 250, 272, 298, 300, 303, 304, 305, 308, 310, 311, 312, 313, 320, 321, 323))


@way()
def the_second_numbering():
    if not X86:
        raise OSError(errno.ENOSYS, "only on x86-64")
    # Of x32: mount(2) again.
    call(0x40000000 | 165, 0, 0, 0, 0, 0)


@way(harmless=True)
def attach_to_the_neighbour():
    c(libc.ptrace, 0x4206, int(os.environ["NEIGHBOUR_PID"]), 0, 0)


@way()
def attach_to_the_first_process():
    c(libc.ptrace, 0x4206, 1, 0, 0)


@way()
def memory_of_the_first_process():
    open("/proc/1/mem", "rb").read(1)


@way(harmless=True)
def signal_the_neighbour():
    os.kill(int(os.environ["NEIGHBOUR_PID"]), 0)


@way(harmless=True)
def see_the_neighbour():
    mark = os.environ["NEIGHBOUR_MARK"].encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) != os.getpid() and mark in open(f"/proc/{pid}/cmdline", "rb").read():
                return
        except OSError:
            continue
    raise FileNotFoundError("not seen")


def read(path):
    open(path, "rb").read()


@way(harmless=True)
def files_of_the_neighbour():
    read(os.environ["NEIGHBOUR_FILE"])


@way(harmless=True)
def files_of_the_node():
    read(os.environ["NODE_FILE"])


@way()
def files_through_the_first_process():
    read("/proc/1/root" + os.environ["NODE_FILE"])


@way()
def files_through_a_symbolic_link():
    os.symlink(os.environ["NEIGHBOUR_FILE"], "symbolic")
    read("symbolic")


@way()
def files_through_a_hard_link():
    os.link(os.environ["NEIGHBOUR_FILE"], "hard")


@way()
def files_of_the_neighbour_from_above():
    read(os.path.join(HERE, "..", os.path.basename(os.path.dirname(os.environ["NEIGHBOUR_FILE"])), "secret"))


@way()
def shadow():
    read("/etc/shadow")


def connect(address):
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(5)
        s.connect(address)


@way(harmless=True)
def socket_of_the_neighbour():
    connect(os.environ["NEIGHBOUR_SOCKET"])


@way(harmless=True)
def socket_of_the_node():
    connect(os.environ["NODE_SOCKET"])


@way(harmless=True)
def abstract_socket_of_the_neighbour():
    connect("\0" + os.environ["ABSTRACT_SOCKET"])


@way(harmless=True)
def port_of_the_neighbour():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(5)
        s.connect(("127.0.0.1", int(os.environ["NEIGHBOUR_PORT"])))


def write(path, text="1"):
    with open(path, "r+") as f:
        f.write(text)


@way()
def write_proc_sys():
    write("/proc/sys/kernel/core_pattern", "|/bin/false")


@way()
def write_sysrq():
    with open("/proc/sysrq-trigger", "w") as f:
        f.write("h")


@way()
def write_sys():
    write("/sys/kernel/uevent_helper")


@way()
def survive_the_others():
    write("/proc/self/oom_score_adj", "-1000")


@way()
def leave_the_control_group():
    with open("/sys/fs/cgroup/pids/cgroup.procs", "w") as f:
        f.write("0")


@way()
def change_the_system():
    open("/usr/bin/new", "w")


@way()
def change_the_root():
    os.mkdir("/new")


@way()
def change_etc():
    open("/etc/passwd", "a")


@way()
def a_device_file():
    os.mknod("device", 0o600 | 0o060000, os.makedev(254, 0))


@way()
def disks():
    for name in ("vda", "sda", "nvme0n1", "mem", "kmsg", "kvm", "fuse", "loop-control"):
        if os.path.exists("/dev/" + name):
            open("/dev/" + name, "rb")
            return
    raise FileNotFoundError("none")


@way()
def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


@way()
def packet_socket():
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)


@way()
def sockets_of_odd_kinds():
    for family in (38, 40, 31, 15, 44):
        try:
            socket.socket(family, socket.SOCK_STREAM, 0)
            return
        except OSError as e:
            if e.errno not in (errno.EPERM,):
                return
    raise OSError(errno.EPERM, "refused")


@way()
def tell_of_all_sockets():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)


@way()
def become_root():
    os.setuid(0)


@way()
def a_set_user_id_program():
    out = subprocess.run([os.environ["SET_USER_ID"], "-u"], capture_output=True, text=True)
    if out.stdout.strip() != "0":
        raise PermissionError("not root")


@way()
def capabilities():
    status = dict(line.split(":\t", 1) for line in open("/proc/self/status") if ":\t" in line)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[name], 16) != 0:
            return
    if status["NoNewPrivs"].strip() != "1" or status["Seccomp"].strip() != "2":
        return
    raise PermissionError("none")


@way()
def groups_of_the_node():
    if not set(os.getgroups()) - {os.getgid()}:
        raise PermissionError("none")


@way()
def raise_a_limit():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard + 1))


@way()
def descriptors_of_the_node():
    known = {"0", "1", "2"}
    mine = set(os.listdir("/proc/self/fd"))
    for fd in mine - known:
        try:
            target = os.readlink("/proc/self/fd/" + fd)
        except OSError:
            continue
        if "/proc/" not in target:
            return
    raise FileNotFoundError("none")


@way()
def memory_of_the_kernel():
    read("/proc/kcore")


@way()
def namespaces_of_the_machine():
    fd = os.open("/proc/1/ns/mnt", os.O_RDONLY)
    c(libc.setns, fd, 0)


@way()
def the_time():
    import time

    time.clock_settime(time.CLOCK_REALTIME, time.time())


@way()
def the_name_of_the_machine():
    socket.sethostname("other")


@way()
def type_for_somebody_else():
    import fcntl
    import pty

    _, slave = pty.openpty()
    fcntl.ioctl(slave, 0x5412, b"x")


@way()
def a_file_with_anothers_user():
    open("given", "w").close()
    os.chown("given", 0, 0)


@way()
def the_parents_of_the_work_folder():
    known = {os.path.basename(HERE)}
    if not set(os.listdir("..")) - known:
        raise FileNotFoundError("alone")


def main():
    only_harmless = "--harmless" in sys.argv
    tried = 0
    for name, function, harmless in WAYS:
        if only_harmless and not harmless:
            continue
        tried += 1
        try:
            function()
            print("escaped", name, flush=True)
        except (OSError, ValueError):
            pass
    print("tried", tried, flush=True)


main()
