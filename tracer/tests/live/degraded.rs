//! Hosts that hide something: the tracer says what is lost by it, and does the rest.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::drivers::Route;
use crate::gate;
use crate::kernel::HostSetting;
use crate::lines::Finished;
use crate::namespace::{Namespace, hide, private_mounts};
use crate::tracer::{BINARY, SOON, Tracer, ports};

/// Starts a tracer and runs the check in `place`, while kernel addresses are hidden.
fn with_hidden_addresses(place: &Namespace, port: u16) -> (Tracer, Output) {
    let _settings = gate::changed_settings();
    let _hidden = HostSetting::set("kernel.kptr_restrict", "2");
    place.run(|| {
        let tracer = Tracer::watch_regardless(&ports(&[port]));
        let check = Command::new(BINARY)
            .arg("check")
            .stdin(Stdio::null())
            .output()
            .expect("run the check");
        println!("check: {}", String::from_utf8_lossy(&check.stdout));
        (tracer, check)
    })
}

/// Those that this kernel refuses anyway.
fn usually_refused(port: u16) -> Vec<(String, String)> {
    refused(&Tracer::watch(&ports(&[port])).stop())
}

/// Names of the probes that are missed, with the reasons.
fn refused(finished: &Finished) -> Vec<(String, String)> {
    let meta = finished.lines.meta.as_ref().expect("a meta line");
    let probes = meta.probes.as_array().expect("a list of probes");
    assert!(!probes.is_empty());
    let word = |probe: &serde_json::Value, field: &str| -> String {
        probe[field].as_str().unwrap_or_default().to_owned()
    };
    let refused = probes
        .iter()
        .filter(|probe| !["attached", "not_needed"].contains(&&*word(probe, "state")));
    refused
        .map(|probe| (word(probe, "name"), word(probe, "reason")))
        .collect()
}

#[test]
fn with_kptr_restrict_2_it_learns_the_address_that_is_hidden() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let usual = usually_refused(30_001);
        let (tracer, check) = with_hidden_addresses(&lone, 30_001);
        let server = Route::loopback(&lone).listen(30_001);
        let sides = server.connect().close_client_first();
        let client = tracer.close_of(sides.client);
        assert_eq!(tracer.close_of(sides.server).verdict(), "passive/fin");
        let finished = tracer.stop();
        assert_eq!(refused(&finished), usual);
        assert_eq!(client.verdict(), "active/fin");
        assert!(client.has_minisocket(), "{client:#?}");
        finished.assert_clean();
        let all_or_part = i32::from(!usual.is_empty());
        assert_eq!(
            check.status.code(),
            Some(all_or_part),
            "the check finds all of it"
        );
    });
}

#[test]
fn with_kptr_restrict_2_and_no_loopback_it_says_what_it_cannot_see() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let dark = Namespace::new();
        dark.ip("link set lo down");
        let usual = usually_refused(30_002);
        let (tracer, check) = with_hidden_addresses(&dark, 30_002);
        let server = Route::loopback(&lone).listen(30_002);
        let sides = server.connect().close_client_first();
        let client = tracer.close_of(sides.client);
        assert_eq!(tracer.close_of(sides.server).verdict(), "passive/fin");
        let finished = tracer.stop();
        let mut refused = refused(&finished);
        refused.retain(|probe| !usual.contains(probe));
        println!("stderr: {}\nrefused: {refused:?}", finished.stderr);
        assert!(finished.status.success(), "{}", finished.status);
        finished.assert_account();
        let names: Vec<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["timer_start", "timer_cancel", "timer_expire"]);
        for (name, reason) in &refused {
            assert!(reason.contains("kptr_restrict"), "{name}: {reason}");
        }
        assert!(
            !client.has_minisocket() && client.time_wait_skipped.is_none(),
            "what it cannot see it must not claim: {client:#?}"
        );
        assert!(!client.complete, "and it says so in the record");
        assert_eq!(check.status.code(), Some(1), "the check says so too");
    });
}

#[test]
fn without_tracefs_nothing_is_missing() {
    gate::quiet(|| {
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
    });
}

#[test]
fn without_btf_it_says_so_and_stops() {
    gate::quiet(|| {
        let (output, took) = thread::spawn(|| {
            private_mounts();
            hide(Path::new("/sys/kernel/btf"));
            let _settings = gate::ordinary_settings();
            let started = Instant::now();
            let output = Command::new(BINARY)
                .args(["watch", "--json", "--duration", "5s"])
                .stdin(Stdio::null())
                .output()
                .expect("run the tracer");
            (output, started.elapsed())
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
        assert!(took < SOON.min(Duration::from_secs(5)), "at once: {took:?}");
    });
}
