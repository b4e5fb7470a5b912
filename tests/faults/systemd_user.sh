#!/bin/sh
# Run a command beside a real `systemd --user`, in namespaces that keep both from the machine:
#
#     systemd_user.sh HOME COMMAND...
#
# The manager takes over the control group it finds itself in, so it gets one of its own, seen as the
# root of a hierarchy of its own. /run, the processes and linger's folder are private as well. Needs
# root. Status 77: this machine can't do it.
set -eu

if [ "$1" != --inside ]; then
    if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
        hierarchy=/sys/fs/cgroup
    elif [ -e /sys/fs/cgroup/systemd/cgroup.procs ]; then
        hierarchy=/sys/fs/cgroup/systemd
    else
        exit 77
    fi
    group="$hierarchy/modelops-test-$$"
    mkdir "$group" || exit 77
    # the group's own members first: a cgroup namespace is rooted where its first process is
    status=0
    sh -c 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"' sh "$group" \
        unshare --mount --cgroup --pid --fork --kill-child --mount-proc \
        sh "$0" --inside "$hierarchy" "$@" || status=$?
    find "$group" -depth -type d -exec rmdir {} \;
    exit "$status"
fi

hierarchy=$2
export HOME=$3
shift 3
mount --make-rprivate /
umount -R -l /sys/fs/cgroup || exit 77
if [ "$hierarchy" = /sys/fs/cgroup ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 77
else
    mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir "$hierarchy"
    mount -t cgroup -o none,name=systemd cgroup "$hierarchy" || exit 77
fi
# never start it in a group that holds anything of the machine's
[ "$(wc -l < "$hierarchy/cgroup.procs")" -lt 10 ] || exit 77
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/user/0 /var/lib/systemd
chmod 700 /run/user/0
mount -t tmpfs tmpfs /var/lib/systemd
mkdir /var/lib/systemd/linger
export XDG_RUNTIME_DIR=/run/user/0
unset DBUS_SESSION_BUS_ADDRESS XDG_CONFIG_HOME XDG_STATE_HOME MODELOPS_HOME
/lib/systemd/systemd --user > "$HOME/systemd.log" 2>&1 &
tries=0
until systemctl --user is-system-running > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ "$tries" -lt 300 ] || exit 77
    sleep 0.2
done
"$@"
