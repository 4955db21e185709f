//! `tracer diagnose` on incidents: who, where, how many, and what to change, held against what the
//! programs counted and what the kernel's own table shows.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::drivers::scene::Scene;
use crate::gate;
use crate::pace;
use crate::tracer::BINARY;

/// `tracer diagnose`, running.
struct Diagnose {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

/// What it said.
struct Said {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

impl Diagnose {
    /// Starts it with these further words and waits until its probes are attached.
    fn start(words: &str) -> Self {
        let _settings = gate::ordinary_settings();
        let mut child = Command::new(BINARY)
            .arg("diagnose")
            .args(words.split_whitespace())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {BINARY}: {error}"));
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut said = String::new();
        while !said.contains("watching") {
            let read = stderr.read_line(&mut said).expect("read its stderr");
            assert!(read > 0, "it never watched: {said}");
        }
        Self { child, stderr }
    }

    /// Waits for its end.
    fn finish(mut self) -> Said {
        let mut stdout = String::new();
        let mut pipe = self.child.stdout.take().expect("stdout is piped");
        pipe.read_to_string(&mut stdout).expect("read its stdout");
        let mut stderr = String::new();
        self.stderr
            .read_to_string(&mut stderr)
            .expect("read its stderr");
        let code = self.child.wait().expect("wait for it").code();
        Said {
            stdout,
            stderr,
            code,
        }
    }
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", self.stdout, self.stderr))
    }

    fn first_lines(&self) -> (&str, &str) {
        let mut lines = self.stdout.lines();
        let lines = (lines.next(), lines.next());
        let (Some(first), Some(second)) = lines else {
            panic!("not two lines: {}", self.stdout);
        };
        (first, second)
    }
}

/// The finding of a rule, of which there is to be one.
fn finding<'a>(diagnosis: &'a Value, rule: &str) -> &'a Value {
    let findings = diagnosis["findings"].as_array().expect("findings");
    let mut of_rule = findings.iter().filter(|finding| finding["rule"] == rule);
    match (of_rule.next(), of_rule.next()) {
        (Some(finding), None) => finding,
        _ => panic!("not one finding of {rule}: {diagnosis:#}"),
    }
}

/// The rules of all findings that are errors or warnings.
fn alarms(diagnosis: &Value) -> Vec<&str> {
    let findings = diagnosis["findings"].as_array().expect("findings");
    let alarming = findings
        .iter()
        .filter(|finding| finding["severity"] != "info");
    alarming
        .map(|finding| finding["rule"].as_str().expect("a rule"))
        .collect()
}

/// Whether this kernel shows all that there is: before 6.11 one hook lacks the socket, and nothing
/// is called healthy there. Nothing else may be lacking.
fn is_all_seen(diagnosis: &Value) -> bool {
    let not_seen = diagnosis["not_seen"].as_array().expect("a list");
    for reason in not_seen {
        let reason = reason.as_str().expect("a sentence");
        let is_old = reason.contains("kfree_skb does not tell the receiving socket");
        assert!(is_old, "{diagnosis:#}");
    }
    not_seen.is_empty()
}

/// No finding is an error or a warning, and the verdict is as good as it can be.
fn assert_no_alarm(diagnosis: &Value) {
    assert_eq!(alarms(diagnosis), [] as [&str; 0], "{diagnosis:#}");
    let verdict = match is_all_seen(diagnosis) {
        true => "healthy",
        false => "inconclusive",
    };
    assert_eq!(diagnosis["verdict"], verdict, "{diagnosis:#}");
}

/// How many TCP sockets of any kind the kernel's own table shows to `port`, in the namespace of
/// process `pid`.
fn tuples_to(pid: u64, port: u16) -> u64 {
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the kernel's table");
    let port = format!(":{port:04X}");
    let peers = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(2));
    let to_port = peers.filter(|peer| peer.is_some_and(|peer| peer.ends_with(&port)));
    to_port.count() as u64
}

/// What is used of the one route of a scene that is held still is what the kernel's own table shows;
/// how long that took, from the start of the program to its end.
fn assert_used_as_the_kernel_has_it(scene: &Scene) -> Duration {
    let begun = Instant::now();
    let words = format!("--json --netns {} --duration 500ms", scene.netns());
    let said = Diagnose::start(&words).finish().json();
    let took = begun.elapsed();
    let [route] = &said["routes"].as_array().expect("routes")[..] else {
        panic!("not one route: {said:#}");
    };
    assert_eq!(route["destination"]["port"], 3306);
    let used = tuples_to(scene.number("client"), 3306);
    assert_eq!(route["used"], used, "{said:#}");
    assert_eq!(route["capacity"], scene.number("capacity"));
    took
}

#[test]
fn a_client_without_ports_is_named_with_its_destination_its_figures_and_the_cure() {
    gate::quiet(|| {
        let mut scene = Scene::set("exhaustion --ports 1000 --rate 100");
        let (netns, client) = (scene.netns(), scene.number("client"));

        // All is held still. Other tests start tracers beside this one: the best of three counts.
        let times = (0..3).map(|_| assert_used_as_the_kernel_has_it(&scene));
        let took = times.min().expect("three of them");
        println!("used and capacity of each destination: {took:?} from start to end");
        assert!(took < pace::bound(Duration::from_secs(2)), "{took:?}");

        let words = format!("--netns {netns} --duration 8s");
        let diagnose = Diagnose::start(&format!("--json {words}"));
        let text = Diagnose::start(&words);
        scene.go();
        std::thread::sleep(Duration::from_secs(4));
        let done = scene.hold();
        let failed = done["checkout"]["no_port"].as_u64();
        assert!(failed > Some(300), "{done}");
        let (diagnose, text) = (diagnose.finish(), text.finish());
        assert_eq!(diagnose.code, Some(1), "{}", diagnose.stderr);
        let said = diagnose.json();
        assert_eq!(said["verdict"], "findings");
        let found = finding(&said, "ports-exhausted");
        assert_eq!(found["severity"], "error");
        let subject = &found["subject"];
        assert_eq!(subject["failed"].as_u64(), failed, "{said:#}");
        assert_eq!(subject["process"]["name"], "checkout", "{said:#}");
        assert_eq!(subject["process"]["pids"], serde_json::json!([client]));
        assert_eq!(subject["destination"]["address"], "10.77.0.2");
        assert_eq!(subject["destination"]["port"], 3306);
        assert_eq!(subject["netns"].as_u64(), Some(netns));
        let advice = &found["advice"][0];
        assert_eq!(advice["present"], "2", "{said:#}");
        let command = advice["command"].as_str().unwrap_or_default();
        assert!(command.contains("net.ipv4.tcp_tw_reuse=1"), "{said:#}");
        assert!(
            command.contains(&client.to_string()),
            "in its netns: {command}"
        );
        assert_eq!(alarms(&said), ["ports-exhausted"], "{said:#}");

        let (first, second) = text.first_lines();
        for word in ["checkout", "10.77.0.2:3306", "1,000 of 1,000"] {
            assert!(first.contains(word), "{word} in {first}");
        }
        assert!(second.starts_with("Change: "), "{second}");
        assert!(second.contains("tcp_tw_reuse"), "{second}");
    });
}

#[test]
fn a_server_that_never_closes_is_named() {
    gate::quiet(|| {
        let mut scene = Scene::set("close-wait --first 60 --rate 10");
        let (netns, server) = (scene.netns(), scene.number("server"));
        let words = format!("--netns {netns} --duration 13s");
        let diagnose = Diagnose::start(&format!("--json {words}"));
        let text = Diagnose::start(&words);
        scene.go();
        let (diagnose, text) = (diagnose.finish(), text.finish());
        let made = 60 + scene.hold()["browser"]["made"].as_u64().expect("a count");
        assert_eq!(diagnose.code, Some(1), "{}", diagnose.stderr);
        let said = diagnose.json();
        let found = finding(&said, "close-wait-growing");
        assert_eq!(found["severity"], "error");
        let subject = &found["subject"];
        assert_eq!(subject["process"]["name"], "reports", "{said:#}");
        assert_eq!(subject["process"]["pids"], serde_json::json!([server]));
        assert_eq!(subject["local_port"], 8080);
        let held = subject["used"].as_u64().expect("how many it holds");
        assert!(
            (60 + 50..=made).contains(&held),
            "{held} of {made}: {said:#}"
        );
        assert_eq!(alarms(&said), ["close-wait-growing"], "{said:#}");
        let (first, second) = text.first_lines();
        for word in ["reports", "does not close"] {
            assert!(first.contains(word), "{word} in {first}");
        }
        assert!(second.contains("close"), "{second}");
    });
}

#[test]
fn a_healthy_host_is_called_healthy() {
    gate::quiet(|| {
        let mut scene = Scene::set("healthy --rate 500");
        let netns = scene.netns();
        let words = format!("--netns {netns} --duration 6s");
        let diagnose = Diagnose::start(&format!("--json {words}"));
        let text = Diagnose::start(&words);
        scene.go();
        let (diagnose, text) = (diagnose.finish(), text.finish());
        scene.hold();
        let said = diagnose.json();
        assert_no_alarm(&said);
        let connections = said["connections"].as_u64().expect("how many");
        let least = 2 * pace::share(2_500);
        assert!(connections >= least, "both ends count: {said:#}");
        let (first, second) = text.first_lines();
        if is_all_seen(&said) {
            assert_eq!(diagnose.code, Some(0), "{}", diagnose.stderr);
            assert!(first.starts_with("Healthy: "), "{first}");
            assert_eq!(second, "Change nothing.");
        } else {
            assert_eq!(diagnose.code, Some(3), "{}", diagnose.stderr);
            assert!(first.starts_with("Inconclusive: "), "{first}");
        }
    });
}

#[test]
fn what_fails_for_another_reason_is_not_put_down_to_time_wait() {
    gate::quiet(|| {
        let mut scene = Scene::set("refused --first 400 --rate 50");
        let netns = scene.netns();
        let words = format!("--netns {netns} --duration 8s");
        let diagnose = Diagnose::start(&format!("--json {words}"));
        let text = Diagnose::start(&words);
        scene.go();
        std::thread::sleep(Duration::from_secs(5));
        let refused = scene.hold()["checkout"]["refused"].as_u64();
        let (diagnose, text) = (diagnose.finish(), text.finish());
        assert_eq!(diagnose.code, Some(1), "{}", diagnose.stderr);
        let said = diagnose.json();
        let found = finding(&said, "connects-refused");
        assert_eq!(found["severity"], "error");
        let subject = &found["subject"];
        assert_eq!(subject["failed"].as_u64(), refused, "{said:#}");
        assert_eq!(subject["process"]["name"], "checkout", "{said:#}");
        assert_eq!(subject["destination"]["port"], 3306);
        let evidence = found["evidence"].to_string();
        assert!(evidence.contains("not TIME_WAIT: 400 of 1,000"), "{said:#}");
        assert_eq!(alarms(&said), ["connects-refused"], "{said:#}");
        let (first, _) = text.first_lines();
        for word in ["checkout", "10.77.0.2:3306", "refused"] {
            assert!(first.contains(word), "{word} in {first}");
        }
    });
}

#[test]
fn of_six_programs_the_one_whose_time_waits_fill_its_ports_is_named() {
    gate::alone(|| {
        let (ports, others) = (pace::share(20_000), pace::share(16_000));
        let mut scene = Scene::set(&format!("crowd --ports {ports} --others {others}"));
        let made = scene.facts["done"].as_object().expect("tallies");
        let made: u64 = made
            .values()
            .filter_map(|tally| tally["made"].as_u64())
            .sum();
        assert_eq!(made, ports + 5 * others, "{}", scene.facts);
        let netns = scene.netns();
        let diagnose = Diagnose::start(&format!("--json --netns {netns} --duration 8s"));
        scene.go();
        std::thread::sleep(Duration::from_secs(4));
        let failed = scene.hold()["billing"]["no_port"].as_u64();
        let said = diagnose.finish().json();
        assert_eq!(alarms(&said), ["ports-exhausted"], "{said:#}");
        let subject = &finding(&said, "ports-exhausted")["subject"];
        assert_eq!(subject["process"]["name"], "billing", "{said:#}");
        assert_eq!(subject["failed"].as_u64(), failed, "{said:#}");
        assert_eq!(subject["used"], ports, "{said:#}");
        for other in ["checkout", "search", "mail", "images", "login"] {
            let findings = said["findings"].to_string();
            assert!(!findings.contains(other), "{other} in {said:#}");
        }
    });
}

#[test]
fn fifty_thousand_healthy_connections_raise_no_alarm() {
    gate::alone(|| {
        let rate = pace::share(5_000);
        let mut scene = Scene::set(&format!("healthy --rate {rate}"));
        let netns = scene.netns();
        let diagnose = Diagnose::start(&format!("--json --netns {netns} --duration 16s"));
        scene.go();
        let said = diagnose.finish().json();
        let made = scene.hold()["checkout"]["made"].as_u64();
        assert!(made > Some(pace::share(50_000)), "{made:?}");
        assert_no_alarm(&said);
    });
}

/// How many TIME_WAITs there are in the namespace of process `pid`, by the kernel's own count.
fn time_waits(pid: u64) -> u64 {
    let sockstat = fs::read_to_string(format!("/proc/{pid}/net/sockstat")).expect("its counters");
    let line = sockstat.lines().find(|line| line.starts_with("TCP:"));
    let mut words = line.expect("TCP's counters").split_whitespace();
    words.find(|word| *word == "tw").expect("tw");
    words.next().expect("a number").parse().expect("a number")
}

/// The forecast of the one route, made after `watch` of a scene that fills it up, and how long it
/// took from then on until no port was left.
fn forecast_and_truth(scene: &str, watch: &str) -> (Value, Duration) {
    let mut scene = Scene::set(scene);
    let (netns, client, capacity) = (
        scene.netns(),
        scene.number("client"),
        scene.number("capacity"),
    );
    let diagnose = Diagnose::start(&format!("--json --netns {netns} --duration {watch}"));
    scene.go();
    let said = diagnose.finish().json();
    let told = Instant::now();
    while time_waits(client) < capacity {
        assert!(told.elapsed() < Duration::from_secs(60), "{said:#}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let truth = told.elapsed();
    scene.hold();
    (said["routes"][0].clone(), truth)
}

/// Of a route that is about half full, the forecast is within a tenth of the time that remains.
fn assert_foretold(scene: &str, watch: &str) {
    let (route, truth) = forecast_and_truth(scene, watch);
    let share = route["used"].as_f64().expect("used") / route["capacity"].as_f64().expect("all");
    assert!((0.4..0.6).contains(&share), "half of it is used: {route:#}");
    let told = route["exhausted_in_ns"].as_f64().expect("a forecast") / 1e9;
    let error = (told - truth.as_secs_f64()).abs() / truth.as_secs_f64();
    println!(
        "{scene}: told {told:.2} s, it took {truth:.2?}: {:.1} % off",
        error * 100.0
    );
    assert!(error <= 0.1, "{route:#}");
}

#[test]
fn exhaustion_at_a_steady_rate_is_foretold_at_half_fill() {
    gate::quiet(|| assert_foretold("filling --ports 1000 --rate 50", "9900ms"));
}

#[test]
fn exhaustion_at_a_growing_rate_is_foretold_at_half_fill() {
    gate::quiet(|| assert_foretold("filling --ports 1000 --rate 20 --growth 5", "10600ms"));
}

#[test]
fn a_steady_state_below_capacity_is_never_exhausted() {
    gate::quiet(|| {
        let mut scene = Scene::set("steady --ports 150 --rate 40 --keep 2000");
        let netns = scene.netns();
        let diagnose = Diagnose::start(&format!("--json --netns {netns} --duration 10s"));
        scene.go();
        let said = diagnose.finish().json();
        scene.hold();
        let route = &said["routes"][0];
        assert_eq!(route["outlook"], "never", "{said:#}");
        let used = route["used"].as_u64();
        assert!((70..=90).contains(&used.unwrap_or(0)), "{said:#}");
        let in_the_end = route["steady_state"].as_f64().expect("a steady state");
        assert!((70.0..=90.0).contains(&in_the_end), "{said:#}");
        assert_eq!(alarms(&said), [] as [&str; 0], "{said:#}");
    });
}
