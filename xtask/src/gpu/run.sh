#!/bin/bash
# What only a machine with an NVIDIA GPU can show. Lies in a folder with all that it needs: cofferdam, runc, runsc and probe.
# Prints what it does, and a table; ends with 1 where something is not as it should be.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
here=$PWD
work=$(mktemp -d /tmp/cofferdam-gpu-XXXXXX)
chmod 700 "$work"
trap 'cof rm -f $(cof ps -q --all) >/dev/null 2>&1; rm -rf "$work"' EXIT
wrong=0

cof() { "$here/cofferdam" --state-dir "$work/state" "$@"; }
fail() { echo "WRONG: $*"; wrong=1; }

# A root filesystem with a C library and nothing of the driver: that is to come from cofferdam.
rootfs=$work/rootfs
mkdir -p "$rootfs"/{bin,dev,proc,sys,tmp,etc,usr/bin,usr/lib/x86_64-linux-gnu}
cp "$here/probe" "$rootfs/bin/"
for name in sh ls sleep true; do cp -L "$(type -P $name)" "$rootfs/bin/"; done
# What the driver's library needs besides what these programs do.
extra=$(ls /lib/x86_64-linux-gnu/lib{dl,pthread,rt,m}.so.* /lib64/lib{dl,pthread,rt,m}.so.* 2>/dev/null)
for library in $(ldd "$rootfs"/bin/* | grep -o '/[^ )]*' | grep '\.so' | sort -u) $extra; do
    mkdir -p "$rootfs$(dirname "$library")"
    cp -L "$library" "$rootfs$library"
done

launch() { # RUNTIME OPTIONS... -- COMMAND...
    local runtime=$1 options=()
    shift
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    cof run --rm --runtime "$here/$runtime" --network none --rootfs "$rootfs" "${options[@]}" "$@"
}

echo "== host"
nvidia-smi -L || { echo "there is no GPU here"; exit 1; }
head -1 /proc/driver/nvidia/version
cof doctor | grep -i -E 'gpu|nvproxy|cdi'
gpus=$(nvidia-smi -L | grep -c '^GPU')
first=$(nvidia-smi --query-gpu=uuid --format=csv,noheader | head -1)

# What this runsc says of the driver decides what can be shown under it.
gvisor=()
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

for runtime in runc runsc; do
    echo "== $runtime: one GPU is seen, and it is the one that was given"
    options=(--gpus "device=$first")
    [ $runtime = runsc ] && options+=("${gvisor[@]}")
    seen=$(launch $runtime "${options[@]}" -- /bin/probe list)
    echo "$seen"
    [ "$(echo "$seen" | wc -l)" = 1 ] && [[ $seen == "$first"* ]] || fail "$runtime sees other GPUs than $first"
    nodes=$(launch $runtime "${options[@]}" -- sh -c 'ls -d /dev/nvidia[0-9]*')
    [ "$(echo "$nodes" | wc -l)" = 1 ] || fail "$runtime has the nodes $nodes"
    launch $runtime -- /bin/probe list 2>/dev/null && fail "$runtime sees GPUs that were not asked for"
done

echo "== refusals"
expect() { # CODE COMMAND...
    local code=$1 said
    shift
    said=$("$@" 2>&1) && fail "it was not refused: $*"
    echo "$said" | head -1
    [[ $said == *"error[$code]"* ]] || fail "no $code: $said"
}
expect E0304 launch runc --gpus $((gpus + 1)) -- true
expect E0303 launch runsc --gpus 1 --gpu-driver-override 1.2.3 -- true
holder=$(cof run -d --runtime "$here/runc" --network none --rootfs "$rootfs" --gpus all sleep 1000)
expect E0305 launch runc --gpus 1 -- true
cof stats "$holder"
cof rm -f "$holder" >/dev/null

echo "== speed: medians of 5, in milliseconds, and as a ratio to the host"
for round in 1 2 3 4 5; do
    "$here/probe" bench >"$work/host.$round" || fail "the probe on the host"
    launch runc --gpus "device=$first" -- /bin/probe bench >"$work/runc.$round" || fail "the probe under runc"
    launch runsc --gpus "device=$first" "${gvisor[@]}" -- /bin/probe bench >"$work/runsc.$round" || fail "the probe under runsc"
done
median() { cat "$work/$1".* | awk -v name="$2" '$1 == name { print $2 }' | sort -n | sed -n 3p; }
printf '%-20s %12s %12s %7s %12s %7s\n' KERNEL HOST RUNC RATIO RUNSC RATIO
for name in $(awk '{ print $1 }' "$work/host.1"); do
    host=$(median host "$name") runc=$(median runc "$name") runsc=$(median runsc "$name")
    awk -v n="$name" -v h="$host" -v r="$runc" -v s="$runsc" \
        'BEGIN { printf "%-20s %12.3f %12.3f %7.3f %12.3f %7.3f\n", n, h, r, (h ? r / h : 0), s, (h ? s / h : 0) }'
done
[ $wrong = 0 ] && echo "all as it should be"
exit $wrong
