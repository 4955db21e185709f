use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

fn inode_of(path: &str) -> u32 {
    fs::metadata(path).unwrap().ino().try_into().unwrap()
}

#[test]
fn our_own_namespace_is_found_and_entered_without_moving() {
    let own = inode_of("/proc/self/ns/net");
    let (found, _) = find();
    let own = found.iter().find(|found| found.inode == own).unwrap();
    assert!(own.sockets.is_some());
    assert!(Whereabouts::here().enter(own).is_ok());
}

#[test]
fn a_namespace_of_a_process_is_found_by_it() {
    // A user namespace of its own gives the right to make the other one.
    let child = Command::new("unshare")
        .args(["--user", "--net", "sleep", "10"])
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: no unshare(1) here");
        return;
    };
    let (pid, own) = (child.id(), inode_of("/proc/self/ns/net"));
    let link = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let deadline = std::iter::repeat_n(Duration::from_millis(10), 200);
    let made = deadline.into_iter().find_map(|pause| {
        std::thread::sleep(pause);
        inode_of_link(&link).ok().filter(|inode| *inode != own)
    });
    let found = find().0;
    let is_over = child.try_wait().unwrap().is_some();
    child.kill().unwrap();
    child.wait().unwrap();
    match made {
        Some(made) => {
            let made = found.into_iter().find(|found| found.inode == made).unwrap();
            assert_eq!(made.ways, [link]);
            assert_eq!(made.sockets, Some(0));
            assert!(matches!(open(&made), Err(EnterError::Gone)), "it has ended");
        }
        None => assert!(is_over, "it has no namespace of its own after 2 s"),
    }
}

#[test]
fn a_process_that_hides_in_a_namespace_that_we_know_is_no_news() {
    let denied = || io::Error::from_raw_os_error(libc::EACCES);
    let us = std::process::id();
    let hidden = elsewhere(vec![(us, denied())], [us].into_iter());
    assert_eq!(hidden.count(), 0);

    // Sockets keep the count above zero.
    let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let twice = vec![(us, denied()), (us, denied())];
    let hidden: Vec<_> = elsewhere(twice, std::iter::empty()).collect();
    let said = Skipped {
        netns: None,
        path: format!("/proc/{us}/ns/net"),
        reason: "failed to read it: Permission denied (os error 13)".to_owned(),
    };
    assert_eq!(hidden, [said]);
}

#[test]
fn mounts_tell_their_namespace_and_where_it_is() {
    let mounts = b"21 28 0:19 / /proc rw,nosuid shared:12 - proc proc rw\n\
        301 25 0:4 net:[4026532281] /run/netns/blue rw shared:5 - nsfs nsfs rw\n\
        302 25 0:4 net:[4026532282] /run/docker/netns/a\\040b\\134 rw - nsfs nsfs rw\n\
        303 25 0:4 mnt:[4026532283] /run/mnt/x rw - nsfs nsfs rw\n";
    let found: Vec<_> = mounted(mounts).collect();
    let expected = [
        (4_026_532_281, PathBuf::from("/run/netns/blue")),
        (4_026_532_282, PathBuf::from("/run/docker/netns/a b\\")),
    ];
    assert_eq!(found, expected);
}

#[test]
fn what_only_looks_like_an_escape_stays() {
    assert_eq!(unescaped(b"a\\04"), b"a\\04");
    assert_eq!(unescaped(b"\\9"), b"\\9");
    assert_eq!(unescaped(b"\\777"), b"\\777");
}

#[test]
fn a_namespace_that_no_way_leads_to_any_more_is_gone() {
    let namespace = |way: &str| Namespace {
        inode: 1,
        ways: vec![way.into()],
        sockets: None,
    };
    let open = |way| open(&namespace(way)).unwrap_err().to_string();
    assert_eq!(open("/proc/0/ns/net"), "it is gone");
    // The way leads somewhere else by now.
    assert_eq!(open("/proc/self/ns/net"), "it is gone");
    assert_eq!(
        open("/proc/self/exe/x"),
        "failed to open it: Not a directory (os error 20)"
    );
}
