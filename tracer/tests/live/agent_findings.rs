//! The daemon asks the rules all the time: what it finds is what `tracer diagnose` finds beside it,
//! in the same words.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::Agent;
use crate::drivers::scene::Scene;
use crate::gate;
use crate::others::Others;
use crate::tracer::BINARY;

/// A window begins every 15 seconds, and the machine may be slow.
const WINDOW: Duration = Duration::from_secs(40);

/// The findings of that severity, of all rules but one: refused connects that may be others' are
/// no word about the scene.
fn findings(agent: &Agent, others: &Others, severity: &str) -> f64 {
    let samples = agent.samples();
    let severity = format!("severity=\"{severity}\"");
    let of_severity: Vec<_> = samples
        .iter()
        .filter(|(name, _)| name.starts_with("tracer_finding{") && name.contains(&severity))
        .collect();
    assert_eq!(
        of_severity.len(),
        23,
        "a series for each rule: {samples:#?}"
    );
    let ours = of_severity.iter().filter(|(name, _)| {
        let is_refused = name.contains("rule=\"connects-refused\"");
        !(is_refused && *others.and_failed(0.0).end() > 0.0)
    });
    ours.map(|(_, count)| *count).sum()
}

/// Waits for so many of its seconds. A service manager that does not listen would stop it.
fn seconds(agent: &Agent, count: usize) {
    (0..count).for_each(|_| agent.wait_until_told("WATCHDOG=1"));
}

/// What a diagnosis of a few seconds says of one rule.
fn diagnosed(netns: u64, rule: &str) -> Value {
    let netns = netns.to_string();
    let output = Command::new(BINARY)
        .args(["diagnose", "--json", "--duration", "5s", "--netns", &netns])
        .stdin(Stdio::null())
        .output()
        .expect("run tracer diagnose");
    let said: Value = serde_json::from_slice(&output.stdout).expect("a diagnosis");
    let found = said["findings"].as_array().expect("findings").iter();
    let mut of_rule = found.filter(|finding| finding["rule"] == rule);
    let finding = of_rule.next().cloned();
    finding.unwrap_or_else(|| panic!("no {rule}: {said:#}"))
}

#[test]
fn an_incident_is_a_finding_in_the_words_of_diagnose_and_healthy_traffic_is_none() {
    // It tells of the whole host.
    gate::alone(|| {
        let mut healthy = Scene::set("healthy --rate 500");
        let others = Others::now();
        let agent = Agent::start("");
        assert_eq!(findings(&agent, &others, "error"), 0.0);
        healthy.go();
        // A window and a bit.
        seconds(&agent, 17);
        healthy.hold();
        assert_eq!(findings(&agent, &others, "error"), 0.0, "{}", agent.log());
        let log = agent.log();
        let began = log.lines().filter(|line| line.contains("began (error)"));
        // Of what the scene does nothing is refused.
        let unlike_others = began.filter(|line| !line.contains("connects-refused began"));
        assert_eq!(unlike_others.count(), 0, "{log}");
        drop(healthy);

        let mut scene = Scene::set("exhaustion --ports 1000 --rate 100");
        scene.go();
        let found = diagnosed(scene.netns(), "ports-exhausted");
        assert_eq!(found["severity"], "error");
        let deadline = Instant::now() + WINDOW;
        while findings(&agent, &others, "error") == 0.0 {
            assert!(Instant::now() < deadline, "{}", agent.log());
            seconds(&agent, 1);
        }
        let done = scene.hold();
        assert!(done["checkout"]["no_port"].as_u64() > Some(300), "{done}");
        let samples = agent.samples();
        for name in ["tracer_finding", "tracer_findings_total"] {
            let series = format!("{name}{{rule=\"ports-exhausted\",severity=\"error\"}}");
            assert_eq!(samples[&series], 1.0, "{samples:#?}");
        }
        let (exit, log) = agent.stop();
        assert!(exit.success(), "{log}");
        let mut began = log
            .lines()
            .filter(|line| line.contains("ports-exhausted began (error): "));
        let line = began.next().unwrap_or_else(|| panic!("no line: {log}"));
        assert_eq!(began.next(), None, "{log}");
        let summary = found["summary"].as_str().expect("a summary");
        assert!(line.contains(summary), "{summary} in {line}");
        let command = found["advice"][0]["command"].as_str().expect("a command");
        assert!(line.ends_with(command), "{command} in {line}");
    });
}
