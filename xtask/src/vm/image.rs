//! The machine's disk and kernel: built once, from Debian's packages, and kept below `target/vm`.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use xshell::{Shell, cmd};

use crate::step;

/// Debian 13: its runc and crun are newer than Debian 12's.
const SUITE: &str = "trixie";
/// What is installed in it.
const PACKAGES: &str = "runc,crun,busybox-static,iproute2,kmod,procps,bsdutils,tmux,catatonit,libfaketime,faketime,\
                        linux-image-cloud-amd64,systemd,dbus";
const INIT: &str = include_str!("init.sh");
/// What systemd runs, where it is the first process.
const SERVICE: &str = include_str!("vm.service");
/// The disk's size; it is sparse.
const SIZE: &str = "700M";
/// How a frame of zstd begins, and an executable.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ELF: &[u8] = b"\x7fELF";

/// Builds them unless they are there.
pub(super) fn ensure_built(shell: &Shell, directory: &Path) -> Result<()> {
    let stamp = directory.join("stamp");
    let wanted = format!("{SUITE}\n{PACKAGES}\n{SIZE}\n{INIT}{SERVICE}");
    if std::fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    step(&format!("building a small Debian for the emulator, in {} (a minute or two)", directory.display()));
    std::fs::create_dir_all(directory)?;
    let scratch = tempfile::tempdir_in(directory)?;
    let [root, init, service] = ["root", "init", "vm.service"].map(|name| scratch.path().join(name));
    std::fs::write(&init, INIT)?;
    std::fs::write(&service, SERVICE)?;
    cmd!(shell, "chmod 755 {init}").quiet().run()?;
    let archive = archive(shell)?;
    let options = [
        "--variant=minbase".to_owned(),
        format!("--include={PACKAGES}"),
        "--aptopt=APT::Install-Recommends \"false\"".into(),
        "--aptopt=Acquire::Check-Valid-Until \"false\"".into(),
        // The essential hook below writes a file that a package has, too.
        "--dpkgopt=force-confold".into(),
        "--dpkgopt=path-exclude=/usr/share/doc/*".into(),
        "--dpkgopt=path-exclude=/usr/share/man/*".into(),
        "--dpkgopt=path-exclude=/usr/share/locale/*".into(),
        // It boots without one.
        "--essential-hook=mkdir -p \"$1/etc/initramfs-tools\"; \
         echo update_initramfs=no > \"$1/etc/initramfs-tools/update-initramfs.conf\""
            .into(),
        format!("--customize-hook=copy-in {} /", init.display()),
        format!("--customize-hook=copy-in {} /etc/systemd/system", service.display()),
        // The bus is up before udev and the journal would be, and without them.
        "--customize-hook=cd \"$1/etc/systemd/system\"; mkdir dbus.service.d dbus.socket.d; \
         printf '[Unit]\\nDefaultDependencies=no\\n' | tee dbus.service.d/vm.conf >dbus.socket.d/vm.conf"
            .into(),
    ];
    cmd!(shell, "mmdebstrap --quiet {options...} {SUITE} {root} {archive}").quiet().run()?;
    std::fs::write(directory.join("vmlinux"), kernel(&root.join("boot"))?)?;
    let image = directory.join("root.img");
    std::fs::remove_dir_all(root.join("boot"))?;
    // What there was of an earlier one.
    let _ = std::fs::remove_file(&image);
    cmd!(shell, "mke2fs -q -t ext4 -O ^has_journal -d {root} {image} {SIZE}").quiet().run()?;
    Ok(std::fs::write(stamp, wanted)?)
}

/// The archive that this machine's own apt uses.
fn archive(shell: &Shell) -> Result<String> {
    let sites = cmd!(shell, "apt-get indextargets --format $(SITE)").quiet().read()?;
    let site = sites.lines().find(|site| site.trim_end_matches('/').ends_with("/debian"));
    Ok(site.unwrap_or("http://deb.debian.org/debian").to_owned())
}

/// The kernel without its wrapping: to unpack it under emulation takes longer than the whole boot.
fn kernel(boot: &Path) -> Result<Vec<u8>> {
    let names = std::fs::read_dir(boot)?.flatten().map(|entry| entry.path());
    let wrapped = names.into_iter().find(|path| path.to_string_lossy().contains("/vmlinuz-"));
    let wrapped = std::fs::read(wrapped.context("the machine has no kernel")?)?;
    let starts = wrapped.windows(ZSTD.len()).enumerate().filter(|(_, window)| *window == ZSTD);
    for (start, _) in starts {
        let unpacked = unpack(&wrapped[start..])?;
        if unpacked.starts_with(ELF) {
            return Ok(unpacked);
        }
    }
    bail!("the kernel is not packed with zstd")
}

/// Unpacks what begins the bytes, as far as it is zstd.
#[expect(clippy::disallowed_methods, reason = "xshell takes no bytes")]
fn unpack(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut zstd = Command::new("zstd")
        .args(["--decompress", "--stdout", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = zstd.stdin.take().context("it has an input")?;
    let bytes = bytes.to_vec();
    // It stops reading where the frame ends.
    let writer = std::thread::spawn(move || drop(input.write_all(&bytes)));
    let output = zstd.wait_with_output()?;
    ensure!(writer.join().is_ok(), "the kernel cannot be unpacked");
    Ok(output.stdout)
}
