//! The command line: help, manual pages, completions, and what it takes and refuses.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::{Command as Process, Output};
use std::time::Duration;

use clap::{ColorChoice, CommandFactory, Parser};
use clap_complete::Shell;
use tracer::cli::{self, AgentArgs, CheckArgs, Cli, Command, WatchArgs};
use tracer::config::agent::{AgentConfig, Listen};
use tracer::config::{CheckConfig, PortsConfig, WatchConfig};
use tracer::output::Format;
use tracer::record::CloseKind;

fn parse(words: &str) -> Result<Command, clap::Error> {
    let words = ["tracer"].into_iter().chain(words.split_whitespace());
    Ok(Cli::try_parse_from(words)?.command)
}

fn watch(words: &str) -> WatchArgs {
    match parse(&format!("watch {words}")).unwrap() {
        Command::Watch(args) => args,
        command => panic!("not a watch: {command:?}"),
    }
}

fn check(words: &str) -> CheckArgs {
    match parse(&format!("check {words}")).unwrap() {
        Command::Check(args) => args,
        command => panic!("not a check: {command:?}"),
    }
}

fn agent(words: &str) -> AgentArgs {
    match parse(&format!("agent {words}")).unwrap() {
        Command::Agent(args) => args,
        command => panic!("not an agent: {command:?}"),
    }
}

/// The program itself, without variables of its own.
fn run(words: &str) -> Output {
    let mut program = Process::new(env!("CARGO_BIN_EXE_tracer"));
    let ours = env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"TRACER_"));
    for (name, _) in ours {
        program.env_remove(name);
    }
    program.args(words.split_whitespace()).output().unwrap()
}

fn help(command: &str) -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let command = match command {
        "tracer" => &mut root,
        name => root.find_subcommand_mut(name).unwrap(),
    };
    // What the variables hold is the host's, not the help's.
    let command = command
        .clone()
        .mut_args(|argument| argument.hide_env_values(true));
    command.term_width(100).render_long_help().to_string()
}

fn man(command: Option<&str>) -> String {
    let mut page = Vec::new();
    cli::man(command, &mut page).unwrap();
    String::from_utf8(page).unwrap()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_tracer() {
    insta::assert_snapshot!(help("tracer"));
}

#[test]
fn the_help_of_watch() {
    insta::assert_snapshot!(help("watch"));
}

#[test]
fn the_help_of_agent() {
    insta::assert_snapshot!(help("agent"));
}

#[test]
fn the_help_of_check() {
    insta::assert_snapshot!(help("check"));
}

#[test]
fn the_help_of_diagnose() {
    insta::assert_snapshot!(help("diagnose"));
}

#[test]
fn the_help_of_ports() {
    insta::assert_snapshot!(help("ports"));
}

#[test]
fn the_manual_page_of_tracer() {
    insta::assert_snapshot!(man(None));
}

#[test]
fn the_manual_page_of_watch() {
    insta::assert_snapshot!(man(Some("watch")));
}

#[test]
fn the_manual_page_of_agent() {
    insta::assert_snapshot!(man(Some("agent")));
}

#[test]
fn there_is_no_manual_page_of_what_is_no_command() {
    let error = cli::man(Some("fly"), &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "there is no command \"fly\"");
}

#[test]
fn every_shell_completes_the_kinds_and_what_the_agent_takes() {
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let mut script = Vec::new();
        cli::completions(shell, &mut script);
        let script = String::from_utf8(script).unwrap();
        for kind in CloseKind::ALL {
            assert!(script.contains(kind.name()), "{shell}: {kind}");
        }
        assert!(script.contains("otlp-endpoint"), "{shell}");
    }
}

#[test]
fn every_flag_has_an_environment_variable() {
    let mut root = Cli::command();
    root.build();
    // What is done once in place of running is no setting.
    let settings = |long: &&str| !["help", "print-config", "check-config"].contains(long);
    for command in ["watch", "ports", "agent", "check"] {
        let command = root.find_subcommand(command).unwrap();
        for flag in command.get_arguments().filter_map(|argument| {
            let long = argument.get_long().filter(settings)?;
            Some((long, argument.get_env()))
        }) {
            let expected = format!("TRACER_{}", flag.0.to_uppercase().replace('-', "_"));
            assert_eq!(flag.1.unwrap().to_str(), Some(&*expected));
        }
    }
}

#[test]
fn watch_without_flags() {
    let config = WatchConfig::try_from(watch("")).unwrap();
    assert!(config.filter.is_empty());
    assert_eq!(config.format, Format::Table);
    assert!(!config.transitions && !config.summary);
    assert_eq!(config.duration, None);
    assert_eq!(config.buffer.bytes(), 32 << 20);
    assert_eq!(config.color, ColorChoice::Auto);
}

#[test]
fn watch_with_all_flags() {
    let words = "--transitions --json --duration 1h30m --buffer 512KiB --color never \
                 --port 80,443 --local ::1 --peer 10.0.0.0/8 --netns 4026531840 --comm nginx \
                 --kind reset_sent,timed_out --without free_segment,schedule";
    let config = WatchConfig::try_from(watch(words)).unwrap();
    assert_eq!(config.format, Format::Json);
    assert!(config.transitions);
    assert_eq!(config.duration, Some(Duration::from_secs(5_400)));
    assert_eq!(config.buffer.bytes(), 512 << 10);
    assert_eq!(config.color, ColorChoice::Never);
    assert_eq!(
        config.without,
        ["free_segment", "schedule"].map(|name| name.parse().unwrap())
    );
    assert_eq!(config.filter.ports, [80, 443]);
    assert_eq!(config.filter.netns, [4_026_531_840]);
    assert_eq!(
        config.filter.kinds,
        [CloseKind::ResetSent, CloseKind::TimedOut]
    );
}

#[test]
fn a_summary_has_rows_of_no_kind() {
    let words = "--summary --transitions --calls --json --duration 10s";
    let config = WatchConfig::try_from(watch(words)).unwrap();
    assert!(config.summary && !config.transitions && !config.calls);
    assert_eq!(config.format, Format::Json);
}

#[test]
fn ports_with_all_flags() {
    let config = |words: &str| match parse(&format!("ports {words}")).unwrap() {
        Command::Ports(args) => PortsConfig::try_from(args).unwrap(),
        command => panic!("not ports: {command:?}"),
    };
    let plain = config("");
    assert!(plain.filter.is_empty() && !plain.all);
    assert_eq!(plain.format, Format::Table);
    let full = config("--json --all --port 80,443 --local ::1 --peer 10.0.0.0/8 --netns 7");
    assert_eq!((full.format, full.all), (Format::Json, true));
    assert_eq!(full.filter.ports, [80, 443]);
    assert_eq!(full.filter.netns, [7]);
    assert_eq!((full.filter.local.len(), full.filter.peer.len()), (1, 1));
}

#[test]
fn what_the_agent_is_not_told_is_left_to_the_file() {
    let plain = agent("");
    assert_eq!(
        (plain.config, plain.listen, plain.buffer),
        (None, None, None)
    );
    assert_eq!((plain.without, plain.calls), (None, None));
    assert_eq!((plain.history, plain.otlp_endpoint), (None, None));
    assert!(!plain.print_config && !plain.check_config);
    assert_eq!(agent("--calls").calls, Some(true));
    assert_eq!(agent("--calls=false").calls, Some(false));
    assert_eq!(agent("--listen off").listen, Some(Listen::Off));
    let full = agent(
        "--config /a.toml --buffer 1MiB --without schedule,free_segment --history /h \
         --otlp-endpoint https://c:4318/x --check-config",
    );
    assert_eq!(full.config, Some("/a.toml".into()));
    assert_eq!(full.buffer.unwrap().bytes(), 1 << 20);
    assert_eq!(full.without.unwrap().len(), 2);
    assert_eq!(full.history.map(PathBuf::from), Some("/h".into()));
    assert_eq!(full.otlp_endpoint.unwrap().to_string(), "https://c:4318/x");
    assert!(full.check_config);
}

#[test]
fn of_the_agents_configuration_flags_are_first_then_variables_then_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    fs::write(
        &file,
        "[http]\nlisten = \"127.0.0.1:1\"\n[trace]\nbuffer = \"1MiB\"\ncalls = true\n\
         without = [\"schedule\"]",
    )
    .unwrap();
    // In a process of its own, since the environment is the whole process's.
    const INNER: &str = "TRACER_TEST_INNER";
    if env::var_os(INNER).is_none() {
        let status = Process::new(env::current_exe().unwrap())
            .args([
                "--exact",
                "of_the_agents_configuration_flags_are_first_then_variables_then_the_file",
            ])
            .env(INNER, "1")
            .env("TRACER_CONFIG", &file)
            .env("TRACER_LISTEN", "127.0.0.1:2")
            .env("TRACER_BUFFER", "2MiB")
            .env("TRACER_CALLS", "no")
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
        return;
    }
    let config = AgentConfig::load(&agent("--listen 127.0.0.1:3")).unwrap();
    assert_eq!(config.http.listen.address().unwrap().port(), 3, "the flag");
    assert_eq!(config.trace.buffer.bytes(), 2 << 20, "the variable");
    assert!(
        !config.trace.calls,
        "the variable takes back what the file says"
    );
    assert_eq!(config.trace.without.len(), 1, "the file");
    assert_eq!(config.metrics.series, 2_000, "the default");
}

#[test]
fn the_configuration_that_is_printed_is_one_that_is_right() {
    let printed = run("agent --print-config");
    assert!(printed.status.success(), "{printed:?}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    fs::write(&file, &printed.stdout).unwrap();
    let checked = run(&format!("agent --check-config --config {}", file.display()));
    assert!(checked.status.success(), "{checked:?}");
    let said = String::from_utf8(checked.stdout).unwrap();
    assert_eq!(said, format!("{} is right\n", file.display()));
}

#[test]
fn a_configuration_that_is_wrong_is_told_with_its_place_and_exits_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("agent.toml");
    let words = format!("agent --check-config --config {}", file.display());
    let told = || {
        let output = run(&words);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    assert_eq!(
        told(),
        format!(
            "tracer: failed to read {}: No such file or directory (os error 2)\n",
            file.display()
        )
    );
    fs::write(&file, "[health]\nlosses = 2.5\n").unwrap();
    assert_eq!(
        told(),
        format!(
            "tracer: {}:2:10: 2.5 is not between 0 and 1\n  |\n2 | losses = 2.5\n  |          ^^^\n",
            file.display()
        )
    );
}

#[test]
fn check_measures_for_a_time_only_where_the_cost_is_asked_for() {
    let cost = |words| CheckConfig::from(check(words)).cost;
    assert_eq!(cost(""), None);
    assert_eq!(cost("--duration 1s"), None);
    assert_eq!(cost("--cost"), Some(Duration::from_secs(10)));
    assert_eq!(
        cost("--cost --duration 500ms"),
        Some(Duration::from_millis(500))
    );
}

#[test]
fn a_wrong_command_line_is_told_in_one_line_and_exits_2() {
    for (words, told) in [
        ("watch --port 0", "invalid value '0' for '--port <N>'"),
        (
            "watch --port 80,http",
            "invalid value 'http' for '--port <N>'",
        ),
        ("watch --local 10.0.0.0/33", "expected an address (10.0.0.9"),
        ("watch --kind closed", "[possible values: active, passive,"),
        (
            "watch --duration 10",
            "expected a length of time above 0 with its unit",
        ),
        ("watch --buffer 3MiB", "the nearest are 2.0 MiB and 4.0 MiB"),
        (
            "watch --buffer 64KiB",
            "64.0 KiB is not between 256.0 KiB and 1.0 GiB",
        ),
        (
            "watch --without timer",
            "[possible values: set_state, set_state_2, timer_start,",
        ),
        (
            "watch --without set_state",
            "'set_state' for '--without <PROBE>': nothing can be traced without it",
        ),
        ("watch --colour always", "unexpected argument '--colour'"),
        (
            "agent --listen localhost",
            "expected an address with its port, such as 127.0.0.1:9435",
        ),
        ("agent --calls=some", "value was not a boolean"),
        (
            "agent --history here",
            "expected an absolute path, such as /var/lib/tracer",
        ),
        (
            "agent --otlp-endpoint collector:4318",
            "expected a URL that begins with http:// or https://",
        ),
        (
            "agent --print-config --check-config",
            "cannot be used with '--check-config'",
        ),
        ("ports --kind active", "unexpected argument '--kind'"),
        ("ports --peer 10.0.0.0/33", "expected an address (10.0.0.9"),
        ("observe", "unrecognized subcommand 'observe'"),
    ] {
        let error = parse(words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words}");
        let text = error.to_string();
        assert!(text.contains(told), "{words}: {text}");
    }
}

#[test]
fn a_namespace_that_is_not_there_is_told_with_where_it_was_looked_for() {
    // As it is printed.
    let error = |words| {
        let error = WatchConfig::try_from(watch(words)).unwrap_err();
        format!("{:#}", anyhow::Error::from(error))
    };
    assert_eq!(
        error("--netns no-such-namespace"),
        "--netns no-such-namespace: no namespace of this name in /run/netns or /run/docker/netns; \
         give its inode, or a path such as /proc/PID/ns/net"
    );
    assert_eq!(
        error("--netns /proc/self/ns/pid"),
        "--netns /proc/self/ns/pid: /proc/self/ns/pid is not a network namespace"
    );
}

#[test]
fn the_environment_stands_in_for_flags() {
    // In a process of its own, since the environment is the whole process's.
    const INNER: &str = "TRACER_TEST_INNER";
    if env::var_os(INNER).is_none() {
        let status = Process::new(env::current_exe().unwrap())
            .args(["--exact", "the_environment_stands_in_for_flags"])
            .env(INNER, "1")
            .env("TRACER_JSON", "1")
            .env("TRACER_TRANSITIONS", "no")
            .env("TRACER_PORT", "80,443")
            .env("TRACER_DURATION", "3s")
            .output()
            .unwrap();
        assert!(status.status.success(), "{status:?}");
        return;
    }
    let config = WatchConfig::try_from(watch("--port 8080")).unwrap();
    assert_eq!(config.format, Format::Json);
    assert!(!config.transitions);
    assert_eq!(config.filter.ports, [8080]);
    assert_eq!(config.duration, Some(Duration::from_secs(3)));
    let config = WatchConfig::try_from(watch("")).unwrap();
    assert_eq!(config.filter.ports, [80, 443]);
}
