//! How the program begins and ends: exit codes, signals, closed pipes, one clear line.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::drivers::Route;
use crate::gate;
use crate::kernel::HostSetting;
use crate::namespace::Namespace;
use crate::pace;
use crate::tracer::{BINARY, SOON, Tracer, netns, ports};

/// The uid and gid of nobody.
const NOBODY: u32 = 65_534;

/// Runs it to its end with the host's ordinary settings.
fn run(words: &str) -> Output {
    let _settings = gate::ordinary_settings();
    Command::new(BINARY)
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("run the tracer")
}

/// Its stderr's lines that are not empty.
fn complaints(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn without_privileges_it_says_in_one_line_what_to_do() {
    gate::quiet(|| {
        // The build's directory may be closed to others.
        let directory = tempfile::tempdir().expect("make a directory");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))
            .expect("open the directory");
        let copy = directory.path().join("tracer");
        fs::copy(BINARY, &copy).expect("copy the binary");
        for words in ["watch", "watch --json --duration 1s"] {
            let output = Command::new(&copy)
                .args(words.split_whitespace())
                .current_dir("/")
                .stdin(Stdio::null())
                .uid(NOBODY)
                .gid(NOBODY)
                .output()
                .expect("run as nobody");
            let said = complaints(&output);
            println!("{words}: {said:?}");
            assert_eq!(output.status.code(), Some(2), "{words}: {said:?}");
            assert_eq!(said.len(), 1, "one line: {said:?}");
            let line = said[0].to_lowercase();
            assert!(
                ["root", "sudo", "cap_bpf", "privilege"]
                    .iter()
                    .any(|word| line.contains(word)),
                "it says what to do: {line}"
            );
            assert!(!line.contains("panicked"));
        }
    });
}

#[test]
fn an_unknown_option_is_exit_code_2() {
    let output = Command::new(BINARY)
        .args(["watch", "--frobnicate"])
        .stdin(Stdio::null())
        .output()
        .expect("run the tracer");
    let said = complaints(&output);
    assert_eq!(output.status.code(), Some(2), "{said:?}");
    assert!(said[0].contains("--frobnicate"), "{said:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn an_interrupt_flushes_and_ends_with_the_summary() {
    gate::quiet(|| {
        let lone = Namespace::new();
        for (signal, port) in [(Signal::INT, 29_001), (Signal::TERM, 29_002)] {
            let tracer = Tracer::watch(&ports(&[port]));
            let server = Route::loopback(&lone).listen(port);
            let sides = server.connect().close_client_first();
            tracer.close_of(sides.client);
            tracer.close_of(sides.server);
            let sees_flips = tracer.meta().sees_flips();
            tracer.signal(signal);
            let finished = tracer.finish();
            finished.assert_clean();
            // Where the flip is not seen, it may wait for the peer's FIN as far as anyone can tell.
            let waiting = finished.summary.shown_in_time_wait;
            assert!(
                waiting == 1 || (waiting == 0 && !sees_flips),
                "{:?}",
                finished.summary
            );
            assert!(finished.summary.opened >= 2, "{:?}", finished.summary);
            assert!(finished.summary.closed >= 2, "{:?}", finished.summary);
            assert!(finished.summary.ended >= 1, "{:?}", finished.summary);
            assert!(finished.summary.received > 0, "{:?}", finished.summary);
            println!("{}", finished.stderr.trim());
            assert!(
                finished.stderr.trim().len() > "stderr:".len(),
                "a summary for people"
            );
        }
    });
}

#[test]
fn it_ends_by_itself_when_its_duration_is_over() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let started = Instant::now();
        let output = run(&format!("watch --json --duration 1s {}", netns(&lone)));
        let took = started.elapsed();
        assert!(output.status.success(), "{:?}", complaints(&output));
        assert!(took >= Duration::from_secs(1), "{took:?}");
        assert!(took < pace::bound(Duration::from_secs(6)), "{took:?}");
        let text = String::from_utf8(output.stdout).expect("NDJSON is UTF-8");
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with(r#"{"type":"meta""#), "{lines:?}");
        let last = lines.last().expect("there is a last line");
        assert!(last.starts_with(r#"{"type":"summary""#), "{lines:?}");
    });
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let settings = gate::ordinary_settings();
        let mut child = Command::new(BINARY)
            .args(["watch", "--json", "--duration", "60s", "--transitions"])
            .args(["--netns", &lone.inode.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the tracer");
        // What `| head -1` does.
        let mut first = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped"))
            .read_line(&mut first)
            .expect("read the first line");
        drop(settings);
        assert!(first.starts_with(r#"{"type":"meta""#), "{first}");

        let server = Route::loopback(&lone).listen(29_010);
        let deadline = Instant::now() + SOON;
        let status = loop {
            server.connect().close_client_first();
            if let Some(status) = child.try_wait().expect("wait for the tracer") {
                break Some(status);
            }
            if Instant::now() > deadline {
                break None;
            }
            thread::sleep(Duration::from_millis(50));
        };
        let _ = child.kill();
        let _ = child.wait();
        let mut said = String::new();
        let _ = child
            .stderr
            .take()
            .expect("stderr is piped")
            .read_to_string(&mut said);
        println!("on a closed pipe it says: {said:?}");
        let status = status.unwrap_or_else(|| panic!("it goes on without a reader: {said}"));
        assert_eq!(status.code(), Some(0), "{said}");
        for noise in ["panicked", "Broken pipe", "broken pipe", "error"] {
            assert!(!said.contains(noise), "{said}");
        }
    });
}

#[test]
fn the_table_shows_a_close_to_people() {
    gate::quiet(|| {
        let lone = Namespace::new();
        let lasting = pace::bound(Duration::from_secs(1)).max(Duration::from_secs(3));
        let settings = gate::ordinary_settings();
        let mut child = Command::new(BINARY)
            .args(["watch", "--duration", &format!("{}s", lasting.as_secs())])
            .args(["--netns", &lone.inode.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the tracer");
        let server = Route::loopback(&lone).listen(29_011);
        // A table has no meta line that tells when the probes are attached.
        while child.try_wait().expect("ask for its end").is_none() {
            server.connect().close_client_first();
            thread::sleep(Duration::from_millis(100));
        }
        drop(settings);
        let output = child.wait_with_output().expect("wait for the tracer");
        assert!(output.status.success(), "{:?}", complaints(&output));
        let table = String::from_utf8(output.stdout).expect("the table is UTF-8");
        println!("{}", table.lines().take(6).collect::<Vec<_>>().join("\n"));
        assert!(table.contains("127.0.0.1:29011"), "{table}");
        assert!(table.contains("local"), "who closed first: {table}");
        assert!(table.contains("FIN"), "how: {table}");
        assert!(!table.contains('\u{1b}'), "no colours without a terminal");
    });
}

#[test]
fn check_tells_what_the_host_supports() {
    gate::quiet(|| {
        let output = run("check");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{said}");
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "{:?}",
            output.status
        );
        assert!(said.contains("inet_sock_set_state"), "{said}");

        let output = run("check --json");
        let json: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("check --json prints JSON");
        assert!(json.is_object(), "{json}");
    });
}

#[test]
fn check_with_cost_leaves_the_kernels_statistics_as_they_were() {
    gate::alone(|| {
        let before = HostSetting::current("kernel.bpf_stats_enabled");
        let lone = Namespace::new();
        let server = Route::loopback(&lone).listen(29_020);
        let over = AtomicBool::new(false);
        let output = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    server.connect().close_client_first();
                }
            });
            let output = run("check --cost --duration 2s");
            over.store(true, Ordering::Relaxed);
            output
        });
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "{:?}",
            complaints(&output)
        );
        assert_eq!(HostSetting::current("kernel.bpf_stats_enabled"), before);
    });
}
