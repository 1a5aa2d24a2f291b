//! Lines of docker's documentation and of its own tests, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::request::{Source, validate};

/// A mount in one line: what, where, options.
fn show(mount: &MountRequest) -> String {
    let what = match &mount.kind {
        MountKind::Bind { source, .. } => format!("bind {}", source.display()),
        MountKind::Volume { anonymous: true, copy, .. } => {
            format!("volume ?{}", if *copy { "" } else { " nocopy" })
        }
        MountKind::Volume { name, copy, .. } => {
            format!("volume {name}{}", if *copy { "" } else { " nocopy" })
        }
        MountKind::Tmpfs(_) => "tmpfs".into(),
    };
    let ignored = mount.ignored.iter().map(|word| format!(" -{word}")).collect::<String>();
    format!("{what} {} {}{ignored}", mount.destination, mount.options().join(","))
}

#[track_caller]
fn takes(parse: fn(&str) -> Result<MountRequest, String>, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let mount = parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        assert_eq!(show(&mount), *expected, "{text}");
    }
}

/// Each case is a text, and a word that its refusal has to hold.
#[track_caller]
fn refuses(parse: fn(&str) -> Result<MountRequest, String>, cases: &[(&str, &str)]) {
    for (text, word) in cases {
        let why = parse(text).expect_err(text);
        assert!(why.contains(word), "{text}: {why}");
    }
}

#[test]
fn volumes_are_read_as_docker_reads_them() {
    takes(
        MountRequest::parse,
        &[
            ("/a:/b", "bind /a /b rbind,rprivate,rw"),
            ("/a:/b:ro", "bind /a /b rbind,rprivate,ro"),
            ("/a:/b:rw", "bind /a /b rbind,rprivate,rw"),
            ("/a:/b:", "bind /a /b rbind,rprivate,rw"),
            ("/:/host:ro", "bind / /host rbind,rprivate,ro"),
            ("/a:/b:rslave,ro", "bind /a /b rbind,rslave,ro"),
            ("/a:/b:shared", "bind /a /b rbind,shared,rw"),
            ("/a:/b:rshared", "bind /a /b rbind,rshared,rw"),
            ("/a:/b:private", "bind /a /b rbind,private,rw"),
            ("/a:/b:slave", "bind /a /b rbind,slave,rw"),
            ("/a:/b:bind", "bind /a /b bind,rprivate,rw"),
            ("/a:/b:noexec,nosuid,nodev", "bind /a /b rbind,rprivate,rw,noexec,nosuid,nodev"),
            ("/a:/b:exec,dev", "bind /a /b rbind,rprivate,rw,exec,dev"),
            ("/a:/b:z", "bind /a /b rbind,rprivate,rw -z"),
            ("/a:/b:ro,Z", "bind /a /b rbind,rprivate,ro -Z"),
            ("/a:/b:cached", "bind /a /b rbind,rprivate,rw -cached"),
            ("/a:/b//c/./d/", "bind /a /b/c/d rbind,rprivate,rw"),
            ("/a b/ä:/c d", "bind /a b/ä /c d rbind,rprivate,rw"),
            ("db:/var/lib/db", "volume db /var/lib/db rbind,rprivate,rw"),
            ("db:/var/lib/db:ro", "volume db /var/lib/db rbind,rprivate,ro"),
            ("my_vol-1.x:/d:nocopy", "volume my_vol-1.x nocopy /d rbind,rprivate,rw"),
            ("db:/d:z,noexec", "volume db /d rbind,rprivate,rw,noexec -z"),
            ("/data", "volume ? /data rbind,rprivate,rw"),
            ("/proc/cpuinfo:/proc/cpuinfo:ro", "bind /proc/cpuinfo /proc/cpuinfo rbind,rprivate,ro"),
        ],
    );
}

#[test]
fn what_is_no_volume_is_refused_with_the_reason() {
    refuses(
        MountRequest::parse,
        &[
            ("", "not of the form"),
            (":", "not of the form"),
            (":/b", "not of the form"),
            ("/a:", "not of the form"),
            ("::", "not of the form"),
            ("/a:/b:ro:z", "--mount"),
            ("/a:/b:/c", "not known"),
            ("relative", "not an absolute path"),
            ("/data:ro", "no source"),
            ("/data:noexec", "no source"),
            ("a:/b", "not a volume's name"),
            ("-x:/b", "not a volume's name"),
            ("a/b:/c", "neither an absolute path"),
            ("~/x:/c", "neither an absolute path"),
            ("./x:/c", "not an absolute path"),
            ("../x:/c", "not an absolute path"),
            ("/a:b", "not an absolute path"),
            ("/a:/", "hide the root"),
            ("/a://", "hide the root"),
            ("/a:/b/../c", "not an absolute path"),
            ("/a:/proc", "/proc"),
            ("/a:/proc/sys", "inside /proc"),
            ("/a:/b:xx", "`xx`"),
            ("/a:/b:ro,", "``"),
            ("/a:/b:RO", "`RO`"),
            ("/a:/b:ro,rw", "`rw`"),
            ("/a:/b:ro,ro", "contradicts or repeats"),
            ("/a:/b:rslave,rshared", "`rshared`"),
            ("/a:/b:exec,noexec", "`noexec`"),
            ("/a:/b:rbind,bind", "`bind`"),
            ("/a:/b:nocopy", "volumes"),
            ("db:/b:rshared", "rshared is for a path"),
            ("db:/b:bind", "bind is for a path"),
            ("db:/b:nocopy,nocopy", "repeats"),
            ("/a\0b:/c", "no path"),
            ("/a:/c\0d", "not an absolute path"),
        ],
    );
    let long = format!("/a:/{}", "x/".repeat(3000));
    assert!(MountRequest::parse(&long).unwrap_err().contains("4096"));
}

#[test]
fn mounts_are_read_as_docker_reads_them() {
    takes(
        MountRequest::parse_mount,
        &[
            ("type=bind,source=/a,target=/b", "bind /a /b rbind,rprivate,rw"),
            ("type=bind,src=/a,dst=/b,ro", "bind /a /b rbind,rprivate,ro"),
            ("type=bind,source=/a,destination=/b,readonly", "bind /a /b rbind,rprivate,ro"),
            ("TYPE=bind,SOURCE=/a,TARGET=/b", "bind /a /b rbind,rprivate,rw"),
            ("type=bind,source=/a,target=/b,readonly=false", "bind /a /b rbind,rprivate,rw"),
            ("type=bind,source=/a,target=/b,ro=1", "bind /a /b rbind,rprivate,ro"),
            ("type=bind,source=/a,target=/b,bind-propagation=rslave", "bind /a /b rbind,rslave,rw"),
            ("type=bind,source=/a,target=/b,bind-recursive=disabled", "bind /a /b bind,rprivate,rw"),
            ("type=bind,source=/a,target=/b,bind-nonrecursive", "bind /a /b bind,rprivate,rw"),
            ("type=bind,source=/a,target=/b,bind-nonrecursive=false", "bind /a /b rbind,rprivate,rw"),
            ("type=bind,source=/a:x,target=/b:y", "bind /a:x /b:y rbind,rprivate,rw"),
            ("type=bind,\"source=/a,b\",target=/c", "bind /a,b /c rbind,rprivate,rw"),
            ("type=bind,\"source=/a\"\"b\",target=/c", "bind /a\"b /c rbind,rprivate,rw"),
            (
                "type=bind,source=/a,target=/b,consistency=cached",
                "bind /a /b rbind,rprivate,rw -consistency=cached",
            ),
            ("type=volume,source=db,target=/d", "volume db /d rbind,rprivate,rw"),
            ("source=db,target=/d", "volume db /d rbind,rprivate,rw"),
            ("target=/d", "volume ? /d rbind,rprivate,rw"),
            ("type=volume,target=/d,volume-nocopy", "volume ? nocopy /d rbind,rprivate,rw"),
            (
                "type=volume,source=db,target=/d,volume-nocopy=true,ro",
                "volume db nocopy /d rbind,rprivate,ro",
            ),
            ("type=volume,source=db,target=/d,volume-driver=local", "volume db /d rbind,rprivate,rw"),
            ("type=tmpfs,target=/t", "tmpfs /t mode=1777,rw,noexec,nosuid,nodev"),
            (
                "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700,ro",
                "tmpfs /t mode=700,size=1048576,ro,noexec,nosuid,nodev",
            ),
        ],
    );
    let labelled = MountRequest::parse_mount("target=/d,volume-label=a=b=c,volume-label=x").unwrap();
    let MountKind::Volume { labels, .. } = labelled.kind else { panic!("{labelled:?}") };
    assert_eq!(labels, BTreeMap::from([("a".into(), "b=c".into()), ("x".into(), String::new())]));
}

#[test]
fn what_is_no_mount_is_refused_with_the_reason() {
    refuses(
        MountRequest::parse_mount,
        &[
            ("", "empty field"),
            ("type=bind,source=/a,target=/b,", "empty field"),
            ("type=bind,target=/b", "source is missing"),
            ("type=bind,source=,target=/b", "source is missing"),
            ("type=bind,source=/a", "target is missing"),
            ("type=bind,source=a,target=/b", "not an absolute path"),
            ("type=bind,source=./a,target=/b", "not an absolute path"),
            ("type=bind,source=/a,target=b", "not an absolute path"),
            ("type=bind,source=/a,target=/b,readonly=maybe", "readonly"),
            ("type=bind,source=/a,target=/b,bind-propagation=big", "bind-propagation"),
            ("type=bind,source=/a,target=/b,bind-recursive=readonly", "bind-recursive"),
            ("type=bind,source=/a,target=/b,volume-nocopy", "volume-nocopy does not belong to type=bind"),
            ("type=bind,source=/a,target=/b,tmpfs-size=1m", "tmpfs-size does not belong"),
            ("type=bind,source=/a,target=/b,bind-create-src", "make the directory first"),
            ("type=bind,source=/a,target=/b,colour=red", "`colour`"),
            ("type=bind,source=/a,target=/b,colour", "`colour`"),
            ("type=bind,source", "`source`"),
            ("type=volume,source=/a,target=/b", "type=bind"),
            ("type=volume,source=db,target=/b,bind-propagation=rslave", "does not belong to type=volume"),
            ("type=volume,source=db,target=/b,volume-driver=nfs", "volume-driver"),
            ("type=volume,source=db,target=/b,volume-opt=o=x", "volume-opt"),
            ("type=volume,source=db,target=/b,volume-subpath=x", "volume-subpath"),
            ("type=tmpfs,source=/a,target=/t", "no source"),
            ("type=tmpfs,target=/t,tmpfs-size=much", "tmpfs-size"),
            ("type=tmpfs,target=/t,tmpfs-size=0", "tmpfs-size"),
            ("type=tmpfs,target=/t,tmpfs-mode=99", "tmpfs-mode"),
            ("type=tmpfs,target=/t,tmpfs-mode=17777", "tmpfs-mode"),
            ("type=npipe,source=x,target=/t", "npipe"),
            ("type=bind,source=/a\"b,target=/c", "double quote"),
            ("type=bind,\"source=/a,target=/c", "double quote"),
            ("type=bind,\"source=/a\"b,target=/c", "double quote"),
            ("type=bind,source=/a,target=/proc/sys", "inside /proc"),
        ],
    );
}

#[test]
fn file_systems_in_memory_are_read_as_docker_reads_them() {
    takes(
        MountRequest::parse_tmpfs,
        &[
            ("/run", "tmpfs /run mode=1777,rw,noexec,nosuid,nodev"),
            ("/run:", "tmpfs /run mode=1777,rw,noexec,nosuid,nodev"),
            (
                "/run:rw,noexec,nosuid,size=65536k",
                "tmpfs /run mode=1777,size=67108864,rw,noexec,nosuid,nodev",
            ),
            ("/run:size=64m,mode=755,exec", "tmpfs /run mode=755,size=67108864,rw,exec,nosuid,nodev"),
            (
                "/run:uid=5,gid=6,nr_inodes=1k,ro",
                "tmpfs /run mode=1777,uid=5,gid=6,nr_inodes=1024,ro,noexec,nosuid,nodev",
            ),
        ],
    );
    refuses(
        MountRequest::parse_tmpfs,
        &[
            ("", "not an absolute path"),
            ("run", "not an absolute path"),
            ("/", "hide the root"),
            ("/proc", "/proc"),
            ("/run:size", "`size`"),
            ("/run:size=", "size"),
            ("/run:size=0", "no limit"),
            ("/run:size=50%", "50%"),
            ("/run:mode=rwx", "octal"),
            ("/run:mode=+7", "octal"),
            ("/run:uid=root", "uid"),
            ("/run:huge=always", "`huge`"),
            ("/run:rslave", "`rslave`"),
        ],
    );
}

fn request(mounts: &[&str], mount_options: &[&str], tmpfs: &[&str]) -> LaunchRequest {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    LaunchRequest {
        mounts: texts(mounts),
        mount_options: texts(mount_options),
        tmpfs: texts(tmpfs),
        ..LaunchRequest::new(Source::Bundle { path: "/b".into() })
    }
}

#[test]
fn parents_come_first_and_each_place_has_one_mount() {
    let plan =
        validate(request(&["/a:/x/y/z", "/b:/x"], &["type=bind,source=/c,target=/x/y"], &["/x/y/z/t"]))
            .unwrap();
    let places: Vec<&str> = plan.mounts.iter().map(|mount| mount.destination.as_str()).collect();
    assert_eq!(places, ["/x", "/x/y", "/x/y/z", "/x/y/z/t"]);
    for request in [
        request(&["/a:/x", "/b:/x/"], &[], &[]),
        request(&["/a:/x"], &["target=//x"], &[]),
        request(&["/x"], &[], &["/x"]),
    ] {
        let refused = validate(request).unwrap_err();
        assert!(refused.why.contains("another mount at `/x`"), "{refused}");
    }
}

#[test]
fn what_another_option_has_there_is_not_mounted_upon() {
    let refused = |change: fn(&mut LaunchRequest), tmpfs: &str| {
        let mut request = request(&[], &[], &[tmpfs]);
        change(&mut request);
        validate(request).map(drop).map_err(|refused| refused.field)
    };
    let sized = |request: &mut LaunchRequest| request.shm_size = Some("1g".into());
    assert_eq!(refused(sized, "/dev/shm:size=1m"), Err("--shm-size".into()));
    assert_eq!(refused(|request| request.init = true, "/dev/init"), Err("--init".into()));
    assert_eq!(refused(sized, "/tmp"), Ok(()));
    assert_eq!(refused(|_| {}, "/dev/shm"), Ok(()));
}

proptest! {
    #[test]
    fn no_text_panics(text in ".*") {
        let _ = MountRequest::parse(&text);
        let _ = MountRequest::parse_mount(&text);
        let _ = MountRequest::parse_tmpfs(&text);
    }

    #[test]
    fn nothing_near_the_grammar_panics_or_leads_out(
        text in "(type=(bind|volume|tmpfs),)?(\"?(source|target|ro|x)=?[/a.\"]{0,6}\"?,){0,4}target=[/a.]{0,9}",
        volume in "[/.a~:]{0,4}:?[/a.:]{0,9}(:(ro|rw|z|nocopy|rslave|,){0,4})?",
    ) {
        for mount in [MountRequest::parse_mount(&text), MountRequest::parse(&volume)].into_iter().flatten() {
            let place = Path::new(&mount.destination);
            prop_assert!(place.is_absolute() && place.components().count() > 1, "{:?}", mount);
            prop_assert!(place.components().all(|part| part != Component::ParentDir));
        }
    }
}
