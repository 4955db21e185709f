//! Hosts that hide something: the tracer says what is lost by it, and does the rest.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::drivers::Route;
use crate::gate::{self, needs_root};
use crate::kernel::HostSetting;
use crate::namespace::{Namespace, hide, private_mounts};
use crate::tracer::{BINARY, SOON, Tracer, ports};

#[test]
fn with_kptr_restrict_2_it_traces_and_says_what_it_cannot_see() {
    needs_root!(quiet);
    let lone = Namespace::new();
    let settings = gate::changed_settings();
    let hidden = HostSetting::set("kernel.kptr_restrict", "2");
    let tracer = Tracer::watch_regardless(&ports(&[30_001]));
    let check = Command::new(BINARY)
        .arg("check")
        .stdin(Stdio::null())
        .output()
        .expect("run the check");
    drop(hidden);
    drop(settings);

    let server = Route::loopback(&lone).listen(30_001);
    let sides = server.connect().close_client_first();
    let client = tracer.close_of(sides.client);
    let server = tracer.close_of(sides.server);
    let finished = tracer.stop();
    let probes = finished
        .lines
        .meta
        .as_ref()
        .map(|meta| meta.probes.to_string())
        .unwrap_or_default();
    println!("stderr: {}\nprobes: {probes}", finished.stderr);
    println!("check: {}", String::from_utf8_lossy(&check.stdout));
    assert!(finished.status.success(), "{}", finished.status);
    finished.assert_account();
    assert_eq!(server.verdict(), "passive/fin");

    if client.has_minisocket() {
        // It learned the timer's function without kallsyms, as DESIGN.md has it.
        assert_eq!(client.verdict(), "active/fin");
        finished.assert_all_known();
        assert!(matches!(check.status.code(), Some(0 | 1)));
    } else {
        let said = format!("{} {probes}", finished.stderr);
        assert!(
            said.contains("kptr_restrict") || said.contains("kallsyms"),
            "it says why it sees no minisockets: {said}"
        );
        assert!(
            client.time_wait_skipped.is_none() && client.time_wait.is_none(),
            "what it cannot see it must not claim: {client:#?}"
        );
        assert!(!client.complete, "and it says so in the record");
        assert_eq!(check.status.code(), Some(1));
    }
}

#[test]
fn without_tracefs_nothing_is_missing() {
    needs_root!(quiet);
    let lone = Namespace::new();
    let tracer = thread::spawn(|| {
        private_mounts();
        hide(Path::new("/sys/kernel/debug"));
        hide(Path::new("/sys/kernel/tracing"));
        Tracer::watch(&ports(&[30_010]))
    })
    .join()
    .expect("start it where tracefs is not mounted");
    let server = Route::loopback(&lone).listen(30_010);
    let sides = server.connect().close_client_first();
    assert_eq!(tracer.close_of(sides.client).verdict(), "active/fin");
    assert!(tracer.close_of(sides.client).has_minisocket());
    tracer.close_of(sides.server);
    tracer.stop().assert_clean();
}

#[test]
fn without_btf_it_says_so_and_stops() {
    needs_root!(quiet);
    let started = Instant::now();
    let output: Output = thread::spawn(|| {
        private_mounts();
        hide(Path::new("/sys/kernel/btf"));
        let _settings = gate::ordinary_settings();
        Command::new(BINARY)
            .args(["watch", "--json", "--duration", "5s"])
            .stdin(Stdio::null())
            .output()
            .expect("run the tracer")
    })
    .join()
    .expect("run it where BTF is hidden");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    println!("{said:?}");
    assert_eq!(output.status.code(), Some(2), "{said:?}");
    assert_eq!(said.len(), 1, "one line: {said:?}");
    assert!(
        said[0].contains("BTF") || said[0].contains("btf"),
        "{said:?}"
    );
    assert!(
        started.elapsed() < SOON.min(Duration::from_secs(5)),
        "at once"
    );
}
