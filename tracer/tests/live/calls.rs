//! System calls that fail, as their task is told: with the errno, and where TCP never saw them.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, hint, thread};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::gettid;
use rustix::time::ClockId;
use tracer::object;
use tracer::probes::{CALL_PROBES, Probes, Settings};

use crate::drivers::{Route, any_of, connect_from};
use crate::gate;
use crate::namespace::{Namespace, hide, private_mounts};
use crate::ndjson::{Call, Record};
use crate::tracer::{SOON, Tracer, netns, ports};

/// In whose environment [`a_child_runs_out_of_descriptors`] does its part.
const CHILD: &str = "TRACER_TEST_CHILD_WITHOUT_DESCRIPTORS";

fn is_attached(tracer: &Tracer) -> bool {
    let meta = tracer.meta();
    CALL_PROBES.iter().all(|probe| meta.has(probe))
}

/// Waits for the call that asked for this port, or for none.
fn call(tracer: &Tracer, what: &str, fits: impl Fn(&Call) -> bool) -> Call {
    tracer.wait_for(what, SOON, |lines| {
        lines.calls.iter().find(|call| fits(call)).cloned()
    })
}

fn asks_for(call: &Call, name: &str, address: SocketAddr) -> bool {
    call.call == name && call.address == Some(address.into())
}

fn raw(error: &std::io::Error) -> Option<i32> {
    error.raw_os_error()
}

#[test]
fn a_connect_without_a_route_is_told_although_tcp_never_saw_it() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&format!("--calls {}", netns(&lone)));
        assert!(is_attached(&tracer), "{:?}", tracer.meta());
        for target in ["10.9.9.9:24040", "[fd99::9]:24041"] {
            let target: SocketAddr = target.parse().expect("an address");
            let (failed, tid) = lone.run(|| {
                let failed = TcpStream::connect(target).map(drop);
                (failed.expect_err("there is no route"), gettid())
            });
            let call = call(&tracer, "the connect", |call| {
                asks_for(call, "connect", target)
            });
            // Without a route IPv6 may find itself without an address first.
            let told = match failed.kind() {
                ErrorKind::NetworkUnreachable => "ENETUNREACH",
                ErrorKind::AddrNotAvailable => "EADDRNOTAVAIL",
                other => panic!("{other}"),
            };
            assert_eq!(call.errno, told);
            assert!(!call.has_record, "{call:?}");
            assert_eq!(call.state.as_deref(), Some("CLOSE"));
            assert_eq!(call.netns, Some(lone.inode));
            assert_eq!(call.pid, std::process::id());
            assert_eq!(call.tid, tid.as_raw_nonzero().get().unsigned_abs());
            assert!(!call.comm.is_empty() && !call.name.is_empty());
        }

        // A mapped address is IPv4's.
        let mapped: SocketAddr = "[::ffff:10.9.9.9]:24042".parse().expect("an address");
        lone.run(|| TcpStream::connect(mapped).map(drop))
            .expect_err("there is no route");
        let plain: SocketAddr = "10.9.9.9:24042".parse().expect("an address");
        let of_mapped = call(&tracer, "the mapped connect", |call| {
            asks_for(call, "connect", plain)
        });
        assert_eq!(of_mapped.errno, "ENETUNREACH");

        // Of UDP nothing is told: what comes after it in the same thread is.
        lone.run(|| {
            let udp = UdpSocket::bind("0.0.0.0:0").expect("a socket");
            udp.connect("10.9.9.9:24043").expect_err("no route");
            TcpStream::connect("10.9.9.9:24044").expect_err("no route");
        });
        let last: SocketAddr = "10.9.9.9:24044".parse().expect("an address");
        call(&tracer, "the last connect", |call| {
            asks_for(call, "connect", last)
        });
        let finished = tracer.stop();
        let ports_told: Vec<_> = finished
            .lines
            .calls
            .iter()
            .filter(|call| call.netns == Some(lone.inode))
            .filter_map(|call| call.address.and_then(|address| address.port))
            .collect();
        assert_eq!(ports_told, [24_040, 24_041, 24_042, 24_044]);
        assert_eq!(finished.lines.verdicts().count(), 0);
        finished.assert_clean();
    });
}

#[test]
fn a_connect_that_finds_no_port_gives_its_errno_to_the_record() {
    gate::quiet(|| {
        let lone = Namespace::new();
        lone.sysctl("net.ipv4.ip_local_port_range", "40000 40003");
        let tracer = Tracer::watch(&format!("--calls {}", netns(&lone)));
        let server = Route::loopback(&lone).listen(24_050);
        let held: Vec<_> = (0..4).map(|_| server.connect()).collect();
        let failed = lone.run(|| TcpStream::connect(server.address()).map(drop));
        let failed = failed.expect_err("all four ports are taken");
        assert_eq!(failed.kind(), ErrorKind::AddrNotAvailable);
        assert_told(&tracer, server.address(), "no_port");

        // A port of the application's choice, whose tuple is taken.
        let bound = server
            .connect_from(41_000)
            .expect("a port outside the range is free");
        let taken = bound.client_address;
        let again = SocketAddr::new(any_of(taken), taken.port());
        let failed = lone.run(|| connect_from(again, server.address()).map(drop));
        let failed = failed.expect_err("the tuple is taken");
        assert_eq!(failed.kind(), ErrorKind::AddrNotAvailable);
        assert_told(&tracer, server.address(), "tuple_in_use");

        // Refused: the socket's own error, which the call tells again.
        let nobody: SocketAddr = (Ipv4Addr::LOCALHOST, 24_051).into();
        drop(held);
        drop(bound);
        lone.run(|| connect_from(SocketAddr::new(any_of(nobody), 41_001), nobody).map(drop))
            .expect_err("nobody listens");
        let refused = call(&tracer, "the refused connect", |call| {
            asks_for(call, "connect", nobody)
        });
        assert_eq!(
            (&*refused.errno, refused.has_record),
            ("ECONNREFUSED", true)
        );
        tracer.stop().assert_account();
    });
}

/// Both the call and the record say EADDRNOTAVAIL, and the verdict is what it is without the call.
fn assert_told(tracer: &Tracer, target: SocketAddr, cause: &str) {
    let record: Record = tracer.wait_for(cause, SOON, |lines| {
        lines
            .verdicts()
            .find(|record| record.close.cause.as_deref() == Some(cause))
            .cloned()
    });
    assert_eq!(record.verdict(), format!("connect_failed/{cause}"));
    assert_eq!(record.close.errno.as_deref(), Some("EADDRNOTAVAIL"));
    let call = call(tracer, "its call", |call| {
        asks_for(call, "connect", target) && call.local.port == record.local.port
    });
    assert_eq!(
        (&*call.errno, call.has_record),
        ("EADDRNOTAVAIL", true),
        "{call:?}"
    );
    let opener = record.process.and_then(|processes| processes.opener.pid);
    assert_eq!(opener, Some(call.pid));
}

#[test]
fn a_bind_to_a_taken_port_is_told() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&format!("--calls {}", netns(&lone)));
        let taken: SocketAddr = (Ipv4Addr::UNSPECIFIED, 24_060).into();
        lone.run(|| {
            let _held = TcpListener::bind(taken).expect("a free port");
            let failed = TcpListener::bind(taken).expect_err("a taken port");
            assert_eq!(failed.kind(), ErrorKind::AddrInUse);
            UdpSocket::bind("192.0.2.1:24061").expect_err("no address of ours");
        });
        let bind = call(&tracer, "the bind", |call| call.call == "bind");
        assert_eq!(bind.errno, "EADDRINUSE");
        let asked = bind.address.expect("an address");
        assert_eq!(asked.port, Some(24_060));
        assert_eq!((bind.netns, bind.has_record), (Some(lone.inode), false));
        let finished = tracer.stop();
        let binds = finished.lines.calls.iter();
        let binds = binds.filter(|call| call.call == "bind" && call.netns == Some(lone.inode));
        assert_eq!(binds.count(), 1, "UDP's is not told");
        finished.assert_clean();
    });
}

#[test]
fn a_process_without_descriptors_is_told() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&format!("--calls {}", netns(&lone)));
        let child = lone.run(|| {
            Command::new(std::env::current_exe().expect("this binary"))
                .args(["--exact", "calls::a_child_runs_out_of_descriptors"])
                .env(CHILD, "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .expect("run this binary again")
        });
        let pid = child.id();
        let output = child.wait_with_output().expect("wait for it");
        assert!(output.status.success(), "{}", output.status);
        for name in ["socket", "accept"] {
            let call = call(&tracer, name, |call| call.call == name && call.pid == pid);
            assert_eq!((&*call.errno, call.has_record), ("EMFILE", false));
            if name == "accept" {
                assert_eq!(call.netns, Some(lone.inode));
                assert_eq!(call.state.as_deref(), Some("LISTEN"));
                assert_eq!(call.local.port, Some(24_070));
            }
        }
        tracer.stop().assert_account();
    });
}

/// The part of the child, in whose process alone the limit may be set.
#[test]
fn a_child_runs_out_of_descriptors() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:24070").expect("a free port");
    let _client = TcpStream::connect("127.0.0.1:24070").expect("connect to it");
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let few = Rlimit {
        current: Some(16),
        ..limit
    };
    rustix::process::setrlimit(Resource::Nofile, few).expect("lower the limit");
    let mut held = Vec::new();
    let failed = loop {
        match UdpSocket::bind("127.0.0.1:0") {
            Ok(socket) => held.push(socket),
            Err(error) => break error,
        }
    };
    assert_eq!(raw(&failed), Some(Errno::MFILE.raw_os_error()));
    let failed = listener.accept().expect_err("no descriptor is left");
    assert_eq!(raw(&failed), Some(Errno::MFILE.raw_os_error()));
}

#[test]
fn calls_are_told_where_tracefs_is_not_mounted_and_the_host_keeps_its_mounts() {
    gate::quiet(|| {
        let (tracer, before, after) = thread::spawn(|| {
            private_mounts();
            hide("/sys/kernel/debug".as_ref());
            hide("/sys/kernel/tracing".as_ref());
            let mounts = || fs::read_to_string("/proc/thread-self/mounts").expect("the mounts");
            let before = mounts();
            let tracer = Tracer::watch(&format!("--calls {}", ports(&[24_080])));
            (tracer, before, mounts())
        })
        .join()
        .expect("start it where tracefs is not mounted");
        assert!(is_attached(&tracer), "{:?}", tracer.meta());
        assert_eq!(before, after);
        tracer.stop().assert_clean();
    });
}

#[test]
fn nobody_pays_for_calls_that_were_not_asked_for() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let tracer = Tracer::watch(&netns(&lone));
        let meta = tracer.meta();
        for probe in CALL_PROBES {
            assert_eq!(meta.state(probe), "absent");
        }
        lone.run(|| TcpStream::connect("10.9.9.9:24090").map(drop))
            .expect_err("there is no route");
        let finished = tracer.stop();
        assert_eq!(finished.lines.calls.len(), 0);
        finished.assert_clean();
    });
}

/// How many rounds the cost is measured in.
const ROUNDS: usize = 9;
/// System calls whose time is taken together, and how often in a turn.
const CALLS: u32 = 10_000;
const SLICES: usize = 20;

#[test]
fn the_cost_to_other_system_calls_is_known() {
    gate::alone(|| {
        let mut figures = Vec::new();
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let without = nanoseconds_of_a_call(false);
            let with = nanoseconds_of_a_call(true);
            figures.push((without, with));
            ratios.push(with / without);
        }
        ratios.sort_by(f64::total_cmp);
        let median = |of: fn(&(f64, f64)) -> f64| {
            let mut all: Vec<f64> = figures.iter().map(of).collect();
            all.sort_by(f64::total_cmp);
            all[ROUNDS / 2]
        };
        let (without, with) = (median(|it| it.0), median(|it| it.1));
        let ratio = ratios[ROUNDS / 2];
        println!("getppid(): {without:.1} ns without, {with:.1} ns with calls; ratio {ratio:.2}");
        // A hundred nanoseconds and more each would be another matter than what the docs say.
        assert!(ratio < 5.0, "{figures:?}");
    });
}

/// What a system call takes that none of ours watches.
fn nanoseconds_of_a_call(calls: bool) -> f64 {
    let settings = Settings {
        calls,
        ..Settings::new(object::object(), 1 << 20)
    };
    let (probes, _ring) = Probes::attach(&settings).expect("attach");
    // The least: whoever else wants the processor, or its caches, only adds to it.
    let slices = (0..SLICES).map(|_| {
        let started = processor_time();
        for _ in 0..CALLS {
            hint::black_box(rustix::process::getppid());
        }
        processor_time() - started
    });
    let least = slices.min().expect("there are slices");
    drop(probes);
    least.as_nanos() as f64 / f64::from(CALLS)
}

/// What this thread has had of the processor.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("it is not negative")
}
