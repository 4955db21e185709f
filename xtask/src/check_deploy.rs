//! `cargo xtask check-deploy`: what tracer/deploy holds, judged by the programs that it is for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    child,
    setup::{self, Checkers},
    workspace::Workspace,
};

/// What `cargo xtask check-deploy` is asked for.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also ask this Prometheus, which scrapes an agent, the dashboard's questions, and tell which
    /// bring nothing: http://127.0.0.1:9090
    #[arg(long, value_name = "URL")]
    prometheus: Option<String>,
}

/// The most that `systemd-analyze security` may say, in tenths.
const EXPOSURE: &str = "30";

/// Says what Grafana's model of a dashboard does not know of it.
const MODEL: &str = "xtask/src/check_deploy/dashboard.py";

/// Stops at the first check that finds something.
pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let checkers = setup::checkers(workspace)?;
    let deploy = workspace.root.join("tracer/deploy");
    let scratch = workspace.target.join("deploy");
    fs::create_dir_all(&scratch)
        .with_context(|| format!("failed to make {}", scratch.display()))?;
    unit(&checkers, &deploy.join("systemd/tracer.service"), &scratch)?;
    alerts(&checkers, &deploy.join("prometheus"))?;
    manifests(&checkers, &deploy.join("kubernetes/daemonset.yaml"))?;
    step(
        "the Dockerfile is in order",
        child::command(checkers.python.with_file_name("hadolint")).arg(deploy.join("Dockerfile")),
    )?;
    let dashboard = deploy.join("grafana/tracer.json");
    let questions = questions(&dashboard)?;
    step(
        "the dashboard is what Grafana knows",
        child::command(&checkers.python)
            .arg(workspace.root.join(MODEL))
            .arg(dashboard),
    )?;
    parse(&checkers, &questions, &scratch)?;
    if let Some(url) = &args.prometheus {
        ask(&checkers, &questions, url)?;
    }
    eprintln!("check-deploy: clean");
    Ok(ExitCode::SUCCESS)
}

fn unit(checkers: &Checkers, unit: &Path, scratch: &Path) -> Result<()> {
    eprintln!("check-deploy: the unit is right");
    let text = fs::read_to_string(unit)?;
    // The program need not be installed here.
    let copy = scratch.join("tracer.service");
    fs::write(&copy, text.replace("/usr/bin/tracer", "/bin/true"))?;
    let output = child::command(&checkers.systemd_analyze)
        .args(["verify", "--man=no"])
        .arg(&copy)
        .output()?;
    // It may succeed with complaints.
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.is_empty(),
        "systemd-analyze verify: {said}"
    );
    let verdict = child::stdout_of(
        child::command(&checkers.systemd_analyze)
            .args(["security", "--offline=yes", "--threshold", EXPOSURE])
            .arg(unit),
    )?;
    let verdict = verdict.lines().last().unwrap_or_default();
    eprintln!("check-deploy: {verdict}");
    Ok(())
}

fn alerts(checkers: &Checkers, directory: &Path) -> Result<()> {
    step(
        "the alerts are right",
        child::command(&checkers.promtool)
            .args(["check", "rules", "rules.yml"])
            .current_dir(directory),
    )?;
    step(
        "the alerts come when they should",
        child::command(&checkers.promtool)
            .args(["test", "rules", "rules_test.yml"])
            .current_dir(directory),
    )
}

/// A PodMonitor is not Kubernetes' own: there is no schema of it.
fn manifests(checkers: &Checkers, file: &Path) -> Result<()> {
    let program = checkers.python.with_file_name("kubernetes-validate");
    step(
        "the manifests are Kubernetes'",
        child::command(program)
            .args(["--strict", "--quiet"])
            .arg(file),
    )
}

/// The dashboard's queries by where they are, as Grafana would send them for all hosts.
fn questions(dashboard: &Path) -> Result<BTreeMap<String, String>> {
    let text = fs::read_to_string(dashboard)
        .with_context(|| format!("failed to read {}", dashboard.display()))?;
    let model: Value = serde_json::from_str(&text).context("the dashboard is no JSON")?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut questions = BTreeMap::new();
    for panel in list(&model["panels"]) {
        for target in list(&panel["targets"]) {
            let name = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let place = format!("{}, {}", name(&panel["title"]), name(&target["refId"]));
            let question = name(&target["expr"])
                .replace("$__rate_interval", "1m")
                .replace("$instance", ".+");
            if questions.insert(place.clone(), question).is_some() {
                bail!("two queries are called {place}");
            }
        }
    }
    ensure!(!questions.is_empty(), "the dashboard asks nothing");
    Ok(questions)
}

/// As the expressions of rules, which promtool parses all at once.
fn parse(checkers: &Checkers, questions: &BTreeMap<String, String>, scratch: &Path) -> Result<()> {
    let rules: Vec<Value> = (0..)
        .zip(questions)
        .map(|(number, (place, question))| {
            serde_json::json!({"record": format!("panel{number}"), "expr": question, "labels": {"panel": place}})
        })
        .collect();
    let file: PathBuf = scratch.join("dashboard-queries.yml");
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    // JSON is YAML, too.
    fs::write(&file, rules.to_string())?;
    step(
        "the dashboard's queries parse",
        child::command(&checkers.promtool)
            .args(["check", "rules"])
            .arg(file),
    )
}

/// Some bring nothing on a host where nothing is wrong: that is told, and is no failure.
fn ask(checkers: &Checkers, questions: &BTreeMap<String, String>, url: &str) -> Result<()> {
    let mut silent = 0;
    for (place, question) in questions {
        let answer = child::stdout_of(
            child::command(&checkers.promtool)
                .args(["query", "instant", url])
                .arg(question),
        )?;
        if answer.trim().is_empty() {
            silent += 1;
            println!("nothing: {place}: {question}");
        }
    }
    println!(
        "{} of {} queries bring data",
        questions.len() - silent,
        questions.len()
    );
    Ok(())
}

/// What a check says is shown where it finds something: else it is of no use.
fn step(what: &str, command: &mut Command) -> Result<()> {
    eprintln!("check-deploy: {what}");
    let output = command
        .output()
        .with_context(|| format!("failed to check that {what}"))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    ensure!(
        output.status.success(),
        "not so: {what}\n{}",
        said.trim_end()
    );
    Ok(())
}
