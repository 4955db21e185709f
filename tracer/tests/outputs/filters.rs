//! Truth tables of the filters, as they are typed.

use clap::Parser;
use tracer::attribution::Names;
use tracer::cli::{Cli, Command};
use tracer::config::WatchConfig;
use tracer::filter::Filter;
use tracer::record::{Process, Source};
use tracer::stream::{Call, Name};
use tracer_common::tcp::TcpState;

use crate::samples::{self, flow, process};

fn filter(words: &str) -> Filter {
    let words = ["tracer", "watch"]
        .into_iter()
        .chain(words.split_whitespace());
    match Cli::try_parse_from(words).unwrap().command {
        Command::Watch(args) => WatchConfig::try_from(args).unwrap().filter,
        command => panic!("not a watch: {command:?}"),
    }
}

#[test]
fn no_filter_lets_everything_pass() {
    let filter = filter("");
    assert!(filter.is_empty());
    assert!(filter.matches_record(&samples::evil(), &Names::default()));
    assert!(filter.matches_transition(&samples::transitions()[0], &Names::default()));
}

#[test]
fn what_is_not_known_of_a_failed_call_passes() {
    // php-fpm/812, connect() to 10.9.0.9:3306, netns 4026531840; the socket has no address.
    let connect = samples::failed_connect();
    let mut bind = connect;
    bind.failed.call = Call::Bind;
    let mut socket = connect;
    socket.failed.call = Call::Socket;
    (socket.netns, socket.failed.address) = (0, None);
    for (words, passes) in [
        ("", [true, true, true]),
        ("--port 3306", [true, true, true]),
        ("--port 3307", [false, false, true]),
        ("--peer 10.9.0.0/16", [true, true, true]),
        ("--peer 10.8.0.0/16", [false, true, true]),
        ("--local 10.9.0.9", [true, true, true]),
        ("--local 10.8.0.9", [true, false, true]),
        ("--netns 4026531841", [false, false, true]),
        ("--comm php-fpm", [true, true, true]),
        ("--comm nginx", [false, false, false]),
        ("--kind active", [true, true, true]),
    ] {
        let filter = filter(words);
        let shown = [connect, bind, socket].map(|call| filter.matches_call(&call));
        assert_eq!(shown, passes, "{words}");
    }
}

#[test]
fn a_record_is_decided_on_what_is_known() {
    // php-fpm/812, 10.0.0.5:40112 -> 10.0.0.9:3306, active, netns 4026531840
    let (record, _) = samples::active();
    for (words, passes) in [
        ("--port 3306", true),
        ("--port 40112", true),
        ("--port 1,3306", true),
        ("--port 1 --port 3306", true),
        ("--port 3307", false),
        ("--local 10.0.0.0/8", true),
        ("--local 10.0.0.5", true),
        ("--local 10.0.0.9", false),
        ("--peer 10.0.0.9", true),
        ("--peer 10.0.0.5", false),
        ("--peer 192.168.0.0/16,10.0.0.0/24", true),
        ("--peer ::/0", false),
        ("--netns 4026531840", true),
        ("--netns 4026531841", false),
        ("--comm php-fpm", true),
        ("--comm php", false),
        ("--comm nginx,php-fpm", true),
        ("--kind active", true),
        ("--kind passive", false),
        ("--kind passive,active", true),
        (
            "--port 3306 --kind active --peer 10.0.0.9 --comm php-fpm",
            true,
        ),
        ("--port 3306 --kind passive", false),
    ] {
        assert!(!filter(words).is_empty(), "{words}");
        assert_eq!(
            filter(words).matches_record(&record, &Names::default()),
            passes,
            "{words}"
        );
    }
    // Its local end is not known.
    let unknown = samples::evil();
    assert!(!filter("--local 0.0.0.0/0").matches_record(&unknown, &Names::default()));
    assert!(filter("--peer 0.0.0.0/0").matches_record(&unknown, &Names::default()));
    assert!(!filter("--port 1").matches_record(&unknown, &Names::default()));
}

#[test]
fn opener_and_closer_are_known_by_thread_and_process() {
    let (mut record, _) = samples::active();
    record.opener = Process {
        comm: process(b"worker-1", 1, Source::Exact).comm,
        ..process(b"java", 1, Source::Exact)
    };
    record.closer = Process::default();
    assert!(filter("--comm worker-1").matches_record(&record, &Names::default()));
    assert!(filter("--comm java").matches_record(&record, &Names::default()));
    std::mem::swap(&mut record.opener, &mut record.closer);
    assert!(filter("--comm java").matches_record(&record, &Names::default()));
    record.closer = Process::default();
    assert!(!filter("--comm java").matches_record(&record, &Names::default()));
}

/// Names of the cgroup of [`samples::active`]'s socket and of process 812.
fn names(own: &str, of_process: &str) -> Names {
    let mut names = Names::default();
    names.learn(&Name::Cgroup {
        id: 9_007_199_254_740_993,
        path: Some(own.to_owned()),
    });
    names.learn(&Name::CgroupOfProcess {
        pid: 812,
        path: of_process.to_owned(),
    });
    names
}

#[test]
fn a_cgroup_is_known_by_its_path_and_what_is_below() {
    let (record, _) = samples::active();
    let php = names("/system.slice/php-fpm.service", "");
    for (words, passes) in [
        ("--cgroup /system.slice/php-fpm.service", true),
        ("--cgroup /system.slice", true),
        ("--cgroup /user.slice,/system.slice/", true),
        ("--cgroup /", true),
        ("--cgroup /system.slice/php", false),
        ("--cgroup /user.slice", false),
    ] {
        assert_eq!(
            filter(words).matches_record(&record, &php),
            passes,
            "{words}"
        );
    }
    // What is not known does not match, not even the root.
    assert!(!filter("--cgroup /").matches_record(&record, &Names::default()));
    assert!(!filter("--cgroup /").matches_record(&samples::evil(), &php));
    // In the old hierarchies it is the process's.
    let old = names("/", "/docker/x");
    assert!(filter("--cgroup /docker").matches_record(&record, &old));
}

#[test]
fn a_transitions_cgroup_must_be_known() {
    let names = names("/system.slice/php-fpm.service", "");
    let mut row = samples::transitions()[0];
    assert!(!filter("--cgroup /system.slice").matches_transition(&row, &names));
    row.cgroup_id = Some(9_007_199_254_740_993);
    assert!(filter("--cgroup /system.slice").matches_transition(&row, &names));
    assert!(!filter("--cgroup /user.slice").matches_transition(&row, &names));
}

#[test]
fn what_a_transition_does_not_know_yet_passes() {
    // CLOSE -> SYN_SENT: the local port is not chosen.
    let opening = &samples::transitions()[0];
    for (words, passes) in [
        ("--port 3306", true),
        ("--port 40112", true),
        ("--peer 10.0.0.9", true),
        ("--peer 10.0.0.8", false),
        ("--comm php-fpm", true),
        ("--comm nginx", false),
        ("--netns 1", false),
        ("--kind passive", true),
    ] {
        assert_eq!(
            filter(words).matches_transition(opening, &Names::default()),
            passes,
            "{words}"
        );
    }
    // SYN_SENT -> ESTABLISHED: all is known but who.
    let established = &samples::transitions()[1];
    for (words, passes) in [
        ("--port 40112", true),
        ("--port 40113", false),
        ("--comm php-fpm", false),
    ] {
        assert_eq!(
            filter(words).matches_transition(established, &Names::default()),
            passes,
            "{words}"
        );
    }
}

#[test]
fn a_listener_has_no_peer_that_could_be_the_one_asked_for() {
    let mut row = samples::transitions()[0];
    row.flow = flow(("0.0.0.0", 8080), ("0.0.0.0", 0));
    for (from, to) in [
        (TcpState::Close, TcpState::Listen),
        (TcpState::Listen, TcpState::Close),
    ] {
        (row.from, row.to) = (from, to);
        assert!(filter("--port 8080").matches_transition(&row, &Names::default()));
        assert!(filter("--local 10.0.0.5").matches_transition(&row, &Names::default()));
        assert!(!filter("--port 80").matches_transition(&row, &Names::default()));
        assert!(!filter("--peer 10.0.0.9").matches_transition(&row, &Names::default()));
    }
}
