//! Root filesystems and bundles for tests.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The static busybox of Debian's package busybox-static, or of busybox.
pub const BUSYBOX: &str = "/bin/busybox";

/// Commands of busybox that tests use.
const APPLETS: [&str; 31] = [
    "sh", "sort", "true", "false", "sleep", "echo", "cat", "ls", "yes", "head", "tail", "kill", "ps",
    "mount", "id", "stat", "dd", "env", "pwd", "hostname", "touch", "grep", "wc", "cksum", "seq", "readlink",
    "stty", "ip", "nc", "mknod", "chmod",
];

/// Makes a root filesystem of busybox in a directory. It holds files that cannot be executed, too.
///
/// # Panics
/// When it cannot be made.
pub fn rootfs(directory: &Path) -> PathBuf {
    let root = directory.join("rootfs");
    for part in ["bin", "dev", "etc", "proc", "sys", "tmp", "root", "data"] {
        std::fs::create_dir_all(root.join(part)).expect("the directory is writable");
    }
    // A copy, not a link: a container may write to it.
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox is there");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("the directory is writable");
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/data:/bin/sh\n",
    )
    .expect("the directory is writable");
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\nextra:x:2000:web\n")
        .expect("the directory is writable");
    file(&root, "bin/not-executable", "#!/bin/sh\n", 0o644);
    file(&root, "bin/no-interpreter", "#!/bin/missing\n", 0o755);
    file(&root, "bin/no-format", "just text\n", 0o755);
    file(&root, "bin/script", "#!/bin/sh\nexit 9\n", 0o755);
    root
}

/// Puts a file into a root filesystem.
///
/// # Panics
/// When it cannot be written.
pub fn file(root: &Path, path: &str, content: &str, mode: u32) {
    let path = root.join(path);
    std::fs::write(&path, content).expect("the root filesystem is writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("it is ours");
}

/// A specification that runs a command, as a careful user would write it.
#[must_use]
pub fn spec(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": args,
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
        ],
        "linux": {
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" },
            ],
        },
    })
}

/// Makes a bundle with this specification below a directory; its root filesystem is made beside config.json.
///
/// # Panics
/// When it cannot be made.
pub fn bundle(directory: &Path, name: &str, spec: &Value) -> PathBuf {
    let bundle = directory.join(name);
    std::fs::create_dir_all(&bundle).expect("the directory is writable");
    rootfs(&bundle);
    std::fs::write(bundle.join("config.json"), spec.to_string()).expect("the directory is writable");
    bundle
}
