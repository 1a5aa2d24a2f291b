#!/bin/bash
# What only a machine with an NVIDIA GPU can show. Lies in a folder with all that it needs: cofferdam, runc, runsc, an
# older runsc, probe, nvidia-ctk and nvidia-cdi-hook. PyTorch is used where python3 has it, and crun where it is installed.
# Prints what it does, and a table; ends with 1 where something is not as it should be.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
here=$PWD
work=$(mktemp -d /tmp/cofferdam-gpu-XXXXXX)
chmod 700 "$work"
trap 'cof rm -f $(cof ps -q --all) >/dev/null 2>&1; rm -rf "$work"' EXIT
wrong=0

# Nothing here takes long: what hangs is ended, and shows as wrong.
cof() { timeout --foreground 120 "$here/cofferdam" --state-dir "$work/state" "$@"; }
fail() { echo "WRONG: $*"; wrong=1; }

# Makes a root filesystem with a C library and nothing of the driver: that is to come from cofferdam.
make_rootfs() { # DIRECTORY
    local root=$1 name library extra
    mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,usr/bin,usr/lib/x86_64-linux-gnu}
    cp "$here/probe" "$root/bin/"
    for name in sh ls sleep true mknod; do cp -L "$(type -P $name)" "$root/bin/"; done
    # What the driver's library needs besides what these programs do.
    extra=$(ls /lib/x86_64-linux-gnu/lib{dl,pthread,rt,m}.so.* /lib64/lib{dl,pthread,rt,m}.so.* 2>/dev/null)
    for library in $(ldd "$root"/bin/* | grep -o '/[^ )]*' | grep '\.so' | sort -u) $extra; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    # As an image of a distribution has it: the toolkit's hook leaves an image without one alone.
    /sbin/ldconfig -r "$root"
}
rootfs=$work/rootfs
make_rootfs "$rootfs"

launch() { # RUNTIME OPTIONS... -- COMMAND...
    local runtime=$1 options=()
    shift
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    cof run --rm --runtime "$here/$runtime" --network none --rootfs "$rootfs" "${options[@]}" "$@"
}

host() {
    echo "== host"
    nvidia-smi -L || { echo "there is no GPU here"; exit 1; }
    head -1 /proc/driver/nvidia/version
    cof doctor | grep -i -E 'gpu|nvproxy|cdi'
    gpus=$(nvidia-smi -L | grep -c '^GPU')
    first=$(nvidia-smi --query-gpu=uuid --format=csv,noheader | head -1)
    # What this runsc says of the driver decides what can be shown under it.
    gvisor=()
    local said nearest
    if ! said=$(launch runsc --gpus 1 -- true 2>&1); then
        echo "$said"
        nearest=$(echo "$said" | grep -o 'gpu-driver-override [0-9.]*' | head -1)
        if echo "$said" | grep -q 'gpu-allow-unsupported-driver'; then
            gvisor=(--gpu-allow-unsupported-driver)
        elif [ -n "$nearest" ]; then
            gvisor=(--gpu-driver-override "${nearest#* }")
        fi
        echo "under gVisor with: ${gvisor[*]:-nothing that helps}"
    fi
}

# Sets `options` of the caller's to those for a container with the first GPU.
with_gpu() { # RUNTIME
    options=(--gpus "device=$first")
    [ "$1" != runsc ] || options+=("${gvisor[@]}")
}

isolation() { # RUNTIME
    local runtime=$1 options seen nodes
    echo "== $runtime: one GPU is seen, and it is the one that was given"
    with_gpu "$runtime"
    seen=$(launch "$runtime" "${options[@]}" -- /bin/probe list)
    echo "$seen"
    [ "$(echo "$seen" | wc -l)" = 1 ] && [[ $seen == "$first"* ]] || fail "$runtime sees other GPUs than $first"
    nodes=$(launch "$runtime" "${options[@]}" -- sh -c 'ls -d /dev/nvidia[0-9]*')
    [ "$(echo "$nodes" | grep -c '^/dev/nvidia[0-9]')" = 1 ] || fail "$runtime has the nodes $nodes"
    seen=$(launch "$runtime" "${options[@]}" --user 1000:1000 -- /bin/probe list)
    [[ $seen == "$first"* ]] || fail "$runtime: a user that is not root sees $seen"
    seen=$(launch "$runtime" "${options[@]}" -- nvidia-smi -L)
    [[ $seen == *"$first"* ]] || fail "$runtime: nvidia-smi says $seen"
    echo "== $runtime: a container that was given none sees none, and can make itself none"
    launch "$runtime" -- sh -c '! /bin/probe list' 2>/dev/null || fail "$runtime sees GPUs that were not asked for"
    launch "$runtime" --cap-add MKNOD -- sh -c 'mknod /tmp/$0 c 195 0; ! (: <"/tmp/$0")' $runtime ||
        fail "$runtime: a made node opens"
}

expect() { # CODE COMMAND...
    local code=$1 said
    shift
    said=$("$@" 2>&1) && fail "it was not refused: $*"
    echo "$said" | head -4
    [[ $said == *"error[$code]"* ]] || fail "no $code: $said"
}

refusals() {
    echo "== refusals"
    local holder others
    expect E0304 launch runc --gpus $((gpus + 1)) -- true
    expect E0303 launch runsc --gpus 1 --gpu-driver-override 1.2.3 -- true
    [ ! -x "$here/runsc-older" ] || expect E0303 launch runsc-older --gpus 1 -- true
    holder=$(cof run -d --runtime "$here/runc" --network none --rootfs "$rootfs" --gpus all sleep 1000)
    expect E0305 launch runc --gpus 1 -- true
    cof rm -f "$holder" >/dev/null
    echo "== 8 ask for all GPUs at once: one has them, and afterwards they are free"
    for number in 1 2 3 4 5 6 7 8; do
        cof run -d --name "asks-$number" --runtime "$here/runc" --network none --rootfs "$rootfs" --gpus all \
            sleep 1000 >/dev/null 2>"$work/asks.$number" &
    done
    wait
    [ "$(cof ps -q | wc -l)" = 1 ] || fail "$(cof ps)"
    others=$(grep -l 'error\[E0305\]' "$work"/asks.* | wc -l)
    [ "$others" = 7 ] || fail "refused as taken: $others of 7: $(cat "$work"/asks.*)"
    # Its monitor is killed, then the container itself; nobody releases anything.
    holder=$(cof ps -q)
    kill -KILL "$(cof inspect --format '{{.supervisor.pid}}' "$holder")"
    kill -KILL "$(cof inspect --format '{{.process.pid}}' "$holder")"
    launch runc --gpus all -- true || fail "the GPUs of a container that was killed are not free"
}

accounting() { # RUNTIME
    local runtime=$1 options holder said used busy round
    echo "== $runtime: what a container uses is counted"
    with_gpu "$runtime"
    holder=$(cof run -d --runtime "$here/$runtime" --network none --rootfs "$rootfs" "${options[@]}" /bin/probe hold)
    for round in $(seq 40); do
        said=$(cof stats --format json "$holder")
        used=$(echo "$said" | grep -o '"memory_used_bytes":[0-9]*' | grep -o '[0-9]*$')
        busy=$(echo "$said" | grep -o '"utilization_percent":[0-9]*' | grep -o '[0-9]*$')
        [ "${used:-0}" -gt $((1 << 30)) ] && [ "${busy:-0}" -gt 0 ] && break
        sleep 0.5
    done
    cof stats "$holder"
    nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader
    [ "${used:-0}" -gt $((1 << 30)) ] && [ "${busy:-0}" -gt 0 ] || fail "$runtime: 1 GiB is used, and stats says $said"
    echo "its cgroup: $(echo "$said" | grep -o '"peak_bytes":[0-9]*')"
    cof rm -f "$holder" >/dev/null
}

# The descriptions of NVIDIA's own toolkit, with its hooks, in the place of cofferdam's.
toolkit() {
    echo "== by a description of nvidia-ctk"
    # Where cofferdam's description was used before, empty files of the libraries' names are in the way of the hook's links.
    local rootfs=$work/rootfs-toolkit runtime seen
    make_rootfs "$rootfs"
    mkdir "$work/cdi"
    "$here/nvidia-ctk" --quiet cdi generate --nvidia-cdi-hook-path="$here/nvidia-cdi-hook" --output="$work/cdi/nvidia.yaml" ||
        { fail "nvidia-ctk"; return; }
    cof cdi generate --own --output "$work/own.yaml"
    echo "mounts of nvidia-ctk's that cofferdam's description has not (<), and the other way round (>):"
    diff <(paths "$work/cdi/nvidia.yaml") <(paths "$work/own.yaml")
    for runtime in runc runsc; do
        local options
        with_gpu $runtime
        seen=$(launch $runtime --cdi-spec-dir "$work/cdi" "${options[@]}" -- /bin/probe list)
        [[ $seen == "$first"* ]] || fail "$runtime with nvidia-ctk's description sees '$seen'"
    done
    cp "$work/cdi/nvidia.yaml" "$work/own.yaml" "${GPU_TEST_KEEP:-$work}" 2>/dev/null
}
paths() { grep -E '(containerPath|  path):' "$1" | awk '{ print $NF }' | sort -u; }

# Whole directories of the host, for PyTorch; the driver comes from cofferdam.
pytorch() { # RUNTIME
    local options
    with_gpu "$1"
    for place in /usr /opt /root /etc; do options+=(-v "$place:$place:ro"); done
    mkdir -p "$work/whole"/{usr,opt,root,etc,tmp,dev,proc,sys,train}
    ln -sfn usr/bin "$work/whole/bin"; ln -sfn usr/lib "$work/whole/lib"; ln -sfn usr/lib64 "$work/whole/lib64"
    cof run --rm --runtime "$here/$1" --network none --rootfs "$work/whole" --shm-size 1g "${options[@]}" \
        -v "$here:/train:ro" --env "PATH=$PATH" "$(type -P python3)" /train/train.py
}

speed() {
    local name host runc runsc round rounds=${GPU_TEST_ROUNDS:-5} has_torch=
    echo "== speed: medians of $rounds, in milliseconds, and as a ratio to the host"
    python3 -c 'import torch' 2>/dev/null && has_torch=1
    for round in $(seq "$rounds"); do
        "$here/probe" bench >"$work/host.$round" || fail "the probe on the host"
        [ ! $has_torch ] || python3 "$here/train.py" >>"$work/host.$round" || fail "PyTorch on the host"
        for runtime in runc runsc; do
            local options
            with_gpu $runtime
            launch $runtime "${options[@]}" -- /bin/probe bench >"$work/$runtime.$round" || fail "the probe under $runtime"
            [ ! $has_torch ] || pytorch $runtime >>"$work/$runtime.$round" || fail "PyTorch under $runtime"
        done
    done
    median() { cat "$work/$1".* | awk -v name="$2" '$1 == name { print $2 }' | sort -n | sed -n $((rounds / 2 + 1))p; }
    printf '%-32s %12s %12s %7s %12s %7s\n' KERNEL HOST RUNC RATIO RUNSC RATIO
    for name in $(awk '{ print $1 }' "$work/host.1"); do
        host=$(median host "$name") runc=$(median runc "$name") runsc=$(median runsc "$name")
        awk -v n="$name" -v h="$host" -v r="$runc" -v s="$runsc" \
            'BEGIN { printf "%-32s %12.3f %12.3f %7.3f %12.3f %7.3f\n", n, h, r, (h ? r / h : 0), s, (h ? s / h : 0) }'
    done
}

host
for runtime in runc runsc; do isolation $runtime; done
if type -P crun >/dev/null; then
    ln -sf "$(type -P crun)" "$here/crun"
    isolation crun
fi
refusals
toolkit
for runtime in runc runsc; do accounting $runtime; done
speed
[ $wrong = 0 ] && echo "all as it should be"
exit $wrong
