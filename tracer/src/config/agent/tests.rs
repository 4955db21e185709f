//! What is taken in, what is refused and how that is told.

use std::net::SocketAddr;

use super::*;

mod refused;

const FILE: &str = "tracer.toml";

fn parse(text: &str) -> Result<AgentConfig, AgentConfigError> {
    parse_with(text, &AgentArgs::default())
}

fn parse_with(text: &str, args: &AgentArgs) -> Result<AgentConfig, AgentConfigError> {
    AgentConfig::parse(text, Path::new(FILE), args)
}

/// What is said of `text`.
fn told(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

/// What is said of `text`, without where and the excerpt.
fn reason(text: &str) -> String {
    match parse(text).expect_err(text) {
        AgentConfigError::Mistake(mistake) => mistake.reason,
        error => panic!("{text}: {error}"),
    }
}

/// The template with its examples in force.
fn with_examples() -> String {
    let uncommented = |line: &str| {
        let example = line.strip_prefix('#').filter(|rest| !rest.starts_with(' '));
        format!("{}\n", example.unwrap_or(line))
    };
    let text: String = AgentConfig::TEMPLATE.lines().map(uncommented).collect();
    assert_ne!(text, AgentConfig::TEMPLATE);
    text
}

#[test]
fn nothing_said_is_the_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.trace.buffer.bytes(), 32 << 20);
    assert_eq!(config.trace.connections, 1_000_000);
    assert!(config.trace.without.is_empty() && !config.trace.calls);
    let address: SocketAddr = "127.0.0.1:9435".parse().unwrap();
    assert_eq!(config.http.listen, Listen::At(address));
    assert_eq!(
        (config.metrics.destinations, config.metrics.series),
        (20, 2_000)
    );
    assert_eq!(config.health.losses.value(), 0.001);
    assert!(config.diagnose.enabled);
    assert_eq!((config.history, config.otlp), (None, None));
    assert_eq!(config.host.name, crate::host::node_name());
}

#[test]
fn what_is_printed_is_the_defaults() {
    assert_eq!(
        parse(AgentConfig::TEMPLATE).unwrap(),
        parse("").unwrap(),
        "every value of the template is the default"
    );
}

#[test]
fn the_examples_of_what_is_printed_are_right() {
    let config = parse(&with_examples()).unwrap();
    let history = config.history.unwrap();
    assert_eq!(
        history,
        History {
            directory: "/var/lib/tracer".into(),
            roll_size: 64 << 20,
            roll_after: Duration::from_secs(300),
            keep: Duration::from_secs(604_800),
            keep_size: 10 << 30,
        }
    );
    let otlp = config.otlp.unwrap();
    assert_eq!(otlp.endpoint.uri().port_u16(), Some(4318));
    assert_eq!(
        (otlp.interval, otlp.timeout, otlp.queue, otlp.headers.len()),
        (Duration::from_secs(15), Duration::from_secs(10), 4_096, 0)
    );
    assert_eq!(otlp.compression, Compression::Gzip);
    assert_eq!(otlp.logs, None);
    assert_eq!(config.host.name, "db1.example.org");
}

#[test]
fn every_key_and_no_other_is_printed() {
    let written: toml::Table = toml::from_str(&with_examples()).unwrap();
    let written_in = |section: &str| -> Vec<String> {
        let table = section
            .split('.')
            .filter(|name| !name.is_empty())
            .fold(&written, |table, name| table[name].as_table().unwrap());
        table.keys().map(|key| format!("`{key}`")).collect()
    };
    for section in [
        "",
        "trace",
        "http",
        "metrics",
        "health",
        "diagnose",
        "history",
        "otlp",
        "otlp.logs",
        "host",
    ] {
        let header = match section {
            "" => String::new(),
            name => format!("[{name}]\n"),
        };
        // The refusal of a key names all that there are.
        let refusal = reason(&format!("{header}no_such_key = 1"));
        let (_, known) = refusal.split_once("expected ").unwrap();
        let mut known: Vec<String> = known
            .trim_start_matches("one of ")
            .split([',', ' '])
            .filter(|word| word.starts_with('`'))
            .map(str::to_owned)
            .collect();
        let mut written = written_in(section);
        known.sort();
        written.sort();
        assert_eq!(written, known, "[{section}]");
    }
}

#[test]
fn logs_need_somewhere_to_go() {
    let text = "[otlp.logs]\nenabled = true\nkinds = [\"timed_out\"]";
    assert_eq!(
        told(text),
        "otlp.logs.enabled is true, but there is no collector to send to: set otlp.endpoint in the \
         file, or give --otlp-endpoint"
    );
    let args = AgentArgs {
        otlp_endpoint: Some("https://collector:4318/otlp".parse().unwrap()),
        ..AgentArgs::default()
    };
    let otlp = parse_with(text, &args).unwrap().otlp.unwrap();
    assert_eq!(otlp.endpoint.to_string(), "https://collector:4318/otlp");
    let logs = otlp.logs.unwrap();
    assert_eq!(
        (logs.kinds, logs.sample),
        (vec![CloseKind::TimedOut], Share::ALL)
    );
}

#[test]
fn what_lets_us_in_is_not_shown() {
    let text = "[otlp]\nendpoint = \"http://c\"\nheaders = { Authorization = \"Bearer hush\" }";
    let config = parse(text).unwrap();
    let shown = format!("{config:?}");
    assert!(
        shown.contains("authorization") && !shown.contains("hush"),
        "{shown}"
    );
    assert_eq!(config.otlp.unwrap().headers["authorization"], "Bearer hush");
}

#[test]
fn flags_stand_above_the_file() {
    let text = "[trace]\nbuffer = \"1MiB\"\nwithout = [\"schedule\"]\ncalls = true\n\
                [http]\nlisten = \"[::]:80\"\n[history]\ndirectory = \"/a\"\nkeep = \"1h\"\n\
                [otlp]\nendpoint = \"http://a\"\nqueue = 7";
    let plain = parse(text).unwrap();
    assert_eq!(plain.trace.buffer.bytes(), 1 << 20);
    assert_eq!(plain.trace.without, ["schedule".parse().unwrap()]);
    assert!(plain.trace.calls && plain.http.listen.is_exposed());
    let args = AgentArgs {
        buffer: Some("2MiB".parse().unwrap()),
        without: Some(vec!["free_segment".parse().unwrap()]),
        calls: Some(false),
        listen: Some(Listen::Off),
        history: Some("/b".parse().unwrap()),
        otlp_endpoint: Some("http://b".parse().unwrap()),
        ..AgentArgs::default()
    };
    let config = parse_with(text, &args).unwrap();
    assert_eq!(config.trace.buffer.bytes(), 2 << 20);
    assert_eq!(config.trace.without, ["free_segment".parse().unwrap()]);
    assert!(!config.trace.calls);
    assert_eq!(config.http.listen, Listen::Off);
    let history = config.history.unwrap();
    assert_eq!(history.directory, Path::new("/b"));
    assert_eq!(
        history.keep,
        Duration::from_secs(3_600),
        "what no flag says stays"
    );
    let otlp = config.otlp.unwrap();
    assert_eq!(
        (otlp.endpoint.to_string().as_str(), otlp.queue),
        ("http://b/", 7)
    );
}

#[test]
fn only_a_file_that_somebody_named_must_be_there() {
    let directory = tempfile::tempdir().unwrap();
    let (standard, named) = (
        directory.path().join("standard"),
        directory.path().join("named"),
    );
    let naming = |config: &Path| AgentArgs {
        config: Some(config.to_owned()),
        ..AgentArgs::default()
    };
    let load = |args: &AgentArgs| AgentConfig::load_with(args, &standard);

    let config = load(&AgentArgs::default()).unwrap();
    assert_eq!(config.file, None);
    assert_eq!(
        load(&naming(&named)).unwrap_err().to_string(),
        format!("failed to read {}", named.display())
    );

    fs::write(&standard, "[trace]\nconnections = 2000").unwrap();
    fs::write(&named, "[trace]\nconnections = 3000").unwrap();
    let config = load(&AgentArgs::default()).unwrap();
    assert_eq!(
        (config.trace.connections, config.file),
        (2_000, Some(standard.clone()))
    );
    let config = load(&naming(&named)).unwrap();
    assert_eq!(
        (config.trace.connections, config.file),
        (3_000, Some(named.clone()))
    );

    // What is there and cannot be read is told even where nobody named it.
    fs::remove_file(&standard).unwrap();
    fs::create_dir(&standard).unwrap();
    let error = load(&AgentArgs::default()).unwrap_err();
    assert!(
        matches!(error, AgentConfigError::Unreadable { .. }),
        "{error}"
    );
    fs::write(&named, b"\xff").unwrap();
    let error = load(&naming(&named)).unwrap_err();
    assert!(
        matches!(error, AgentConfigError::Unreadable { .. }),
        "{error}"
    );
}

#[test]
fn it_is_exposed_where_others_may_reach_it() {
    for (listen, exposed) in [
        ("127.0.0.1:1", false),
        ("127.8.8.8:1", false),
        ("[::1]:1", false),
        ("[::ffff:127.0.0.1]:1", false),
        ("off", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("10.0.0.5:1", true),
    ] {
        let listen: Listen = listen.parse().unwrap();
        assert_eq!(listen.is_exposed(), exposed, "{listen:?}");
    }
}

#[test]
fn a_reload_names_what_only_a_restart_takes_in() {
    let old = parse("").unwrap();
    let restart = |text: &str| old.needs_restart(&parse(text).unwrap());
    assert_eq!(restart(""), [""; 0]);
    assert_eq!(
        restart(
            "[metrics]\ndestinations = 1\nseries = 100\n[health]\nlosses = 0\n\
             [diagnose]\nenabled = false\n\
             [otlp]\nendpoint = \"http://a\"\n[otlp.logs]\nenabled = true"
        ),
        [""; 0]
    );
    for (text, key) in [
        ("[trace]\nbuffer = \"1MiB\"", "trace.buffer"),
        ("[trace]\nwithout = [\"schedule\"]", "trace.without"),
        ("[trace]\ncalls = true", "trace.calls"),
        ("[trace]\nconnections = 1000", "trace.connections"),
        ("[http]\nlisten = \"off\"", "http.listen"),
        ("[history]\ndirectory = \"/a\"", "history"),
        ("[host]\nname = \"another\"", "host.name"),
    ] {
        assert_eq!(restart(text), [key]);
    }
    let marked = AgentConfig::TEMPLATE.matches("Restart.").count();
    assert_eq!(marked, 7, "the template marks as many");
}
