//! Every kind of mistake, and what is said of it.

use proptest::{prop_assert, prop_assert_eq, proptest};

use super::*;

#[test]
fn a_mistake_is_told_with_its_place_and_its_line() {
    assert_eq!(
        told("# ours\n[trace]\n\tbuffer = \"3MiB\" # more\n"),
        "tracer.toml:3:11: the kernel takes powers of two only; the nearest are 2.0 MiB and 4.0 MiB\n  \
         |\n\
         3 | \tbuffer = \"3MiB\" # more\n  \
         | \t         ^^^^^^"
    );
    assert_eq!(
        told("[host]\nname = \"ünicode\"\nnam = \"ü\"\n"),
        "tracer.toml:3:1: unknown key `nam`, expected `name`\n  \
         |\n\
         3 | nam = \"ü\"\n  \
         | ^^^"
    );
    assert_eq!(
        told("[http]\nlisten = \"ü\" \"b\""),
        "tracer.toml:2:14: unexpected key or value, expected newline, `#`\n  \
         |\n\
         2 | listen = \"ü\" \"b\"\n  \
         |              ^"
    );
    // At the file's end.
    let at_the_end = told("[trace]\ncalls =");
    assert!(
        at_the_end.starts_with("tracer.toml:2:8: ") && at_the_end.ends_with("\n  |        ^"),
        "{at_the_end}"
    );
}

#[test]
fn what_is_unknown_is_told_with_what_is_known() {
    assert_eq!(
        reason("[trase]"),
        "unknown key `trase`, expected one of `trace`, `http`, `metrics`, `health`, `diagnose`, \
         `history`, `otlp`, `host`"
    );
    assert_eq!(
        reason("[trace]\nbufer = \"1MiB\""),
        "unknown key `bufer`, expected one of `buffer`, `without`, `calls`, `connections`"
    );
    assert_eq!(
        reason("[otlp.logs]\nkind = []"),
        "unknown key `kind`, expected one of `enabled`, `kinds`, `sample`"
    );
    assert!(
        reason("[trace]\nwithout = [\"schedule\", \"timer\"]")
            .starts_with("there is no such probe; the probes are set_state, set_state_2, ")
    );
    assert_eq!(
        reason("[trace]\nwithout = [\"set_state\"]"),
        "nothing can be traced without it"
    );
    assert!(
        reason("[otlp.logs]\nkinds = [\"closed\"]")
            .starts_with("\"closed\" is not a kind of close; it is one of active, passive, "),
    );
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    let twice = told("[trace]\ncalls = true\ncalls = false");
    assert!(
        twice.starts_with("tracer.toml:3:1: duplicate key\n"),
        "{twice}"
    );
    let twice = told("[trace]\n[http]\n[trace]");
    assert!(
        twice.starts_with("tracer.toml:3:2: duplicate key\n"),
        "{twice}"
    );
    assert_eq!(
        reason("[otlp.headers]\nX-Scope = \"a\"\nx-scope = \"b\""),
        "the header x-scope is there twice"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_told_with_the_right_one() {
    for (text, told) in [
        (
            "trace = 5",
            "invalid type: integer `5`, expected a section: its name once in [brackets], and its \
             keys beneath",
        ),
        (
            "[[otlp.logs]]\nenabled = true",
            "invalid type: sequence, expected a section: its name once in [brackets], and its keys \
             beneath",
        ),
        (
            "history = []",
            "invalid type: sequence, expected a section: its name once in [brackets], and its keys \
             beneath",
        ),
        (
            "[trace]\nbuffer = 33554432",
            "invalid type: integer `33554432`, expected a size in quotes, such as \"32MiB\"",
        ),
        (
            "[trace]\ncalls = \"yes\"",
            "invalid type: string \"yes\", expected a boolean",
        ),
        (
            "[trace]\nconnections = \"all\"",
            "invalid type: string \"all\", expected a whole number from 1000 to 100000000",
        ),
        (
            "[metrics]\nseries = 1e3",
            "invalid type: floating point `1000.0`, expected a whole number from 100 to 1000000",
        ),
        (
            "[otlp]\ninterval = 15",
            "invalid type: integer `15`, expected a length of time in quotes, such as \"15s\"",
        ),
        (
            "[health]\nlosses = \"1%\"",
            "invalid type: string \"1%\", expected a number from 0 to 1, such as 0.01",
        ),
        (
            "[http]\nlisten = false",
            "invalid type: boolean `false`, expected an address with its port in quotes, such as \
             \"127.0.0.1:9435\", or \"off\"",
        ),
        (
            "[otlp]\nheaders = { tries = 5 }",
            "invalid type: integer `5`, expected a header's value in quotes",
        ),
    ] {
        assert_eq!(reason(text), told, "{text}");
    }
}

#[test]
fn a_value_that_cannot_be_is_told_with_one_that_can() {
    let listen = "expected an address with its port, such as 127.0.0.1:9435 or [::1]:9435, or off";
    let url = "expected a URL that begins with http:// or https:// and has a host, such as \
               http://127.0.0.1:4318";
    let bare = "expected scheme, host, port and path alone, such as https://collector:4318; what \
                lets us in belongs in otlp.headers";
    let name =
        "expected a name of 1 to 253 characters, none of them a space or a control character";
    for (text, told) in [
        (
            "[trace]\nbuffer = \"big\"",
            "expected a size such as 512KiB or 16MiB",
        ),
        (
            "[history]\nroll_size = \"big\"",
            "expected a size such as 64MiB or 10GiB",
        ),
        ("[http]\nlisten = \"localhost:9435\"", listen),
        ("[http]\nlisten = \"127.0.0.1\"", listen),
        ("[http]\nlisten = \"\"", listen),
        (
            "[history]\ndirectory = \"history\"",
            "expected an absolute path, such as /var/lib/tracer",
        ),
        (
            "[history]\nkeep = \"7\"",
            "expected a length of time above 0 with its unit, such as 500ms, 10s, 2m or 1h30m",
        ),
        ("[otlp]\nendpoint = \"127.0.0.1:4318\"", url),
        ("[otlp]\nendpoint = \"grpc://collector:4317\"", url),
        ("[otlp]\nendpoint = \"http://collector:99999\"", url),
        ("[otlp]\nendpoint = \"http://\"", url),
        ("[otlp]\nendpoint = \"\"", url),
        ("[otlp]\nendpoint = \"https://me:secret@collector\"", bare),
        ("[otlp]\nendpoint = \"https://collector/?token=1\"", bare),
        (
            "[otlp]\nheaders = { \"a b\" = \"c\" }",
            "expected a header's name: letters, digits and hyphens",
        ),
        (
            "[otlp]\nheaders = { a = \"b\\n\" }",
            "expected a header's value: visible ASCII characters and spaces",
        ),
        ("[host]\nname = \"\"", name),
        ("[host]\nname = \"a b\"", name),
    ] {
        assert_eq!(reason(text), told, "{text}");
    }
}

#[test]
fn a_value_out_of_range_is_told_with_the_range() {
    for (text, told) in [
        (
            "[trace]\nbuffer = \"8GiB\"",
            "8.0 GiB is not between 256.0 KiB and 1.0 GiB",
        ),
        (
            "[trace]\nconnections = 999",
            "999 is not between 1000 and 100000000",
        ),
        (
            "[metrics]\ndestinations = 1001",
            "1001 is not between 0 and 1000",
        ),
        (
            "[metrics]\nseries = -1",
            "-1 is not between 100 and 1000000",
        ),
        ("[health]\nlosses = 1.5", "1.5 is not between 0 and 1"),
        ("[health]\nlosses = 2", "2 is not between 0 and 1"),
        ("[otlp.logs]\nsample = -0.1", "-0.1 is not between 0 and 1"),
        ("[otlp.logs]\nsample = nan", "NaN is not between 0 and 1"),
        ("[otlp]\nqueue = 0", "0 is not between 1 and 1000000"),
        ("[otlp]\ninterval = \"500ms\"", "500ms is less than 1s"),
        ("[otlp]\ntimeout = \"999ms\"", "999ms is less than 1s"),
        ("[history]\nroll_after = \"10ms\"", "10ms is less than 1s"),
        (
            "[history]\nroll_size = \"100KiB\"",
            "100.0 KiB is less than 1 MiB",
        ),
    ] {
        assert_eq!(reason(text), told, "{text}");
    }
}

#[test]
fn the_ends_of_a_range_belong_to_it() {
    let config = parse(
        "[trace]\nconnections = 1000\n[metrics]\ndestinations = 0\nseries = 1_000_000\n\
         [health]\nlosses = 1\n[otlp]\nendpoint = \"http://c\"\ninterval = \"1s\"\n\
         [otlp.logs]\nenabled = true\nsample = 0.0",
    )
    .unwrap();
    assert_eq!(config.trace.connections, 1_000);
    assert_eq!(
        (config.metrics.destinations, config.metrics.series),
        (0, 1_000_000)
    );
    assert_eq!(config.health.losses, Share::ALL);
    let otlp = config.otlp.unwrap();
    assert_eq!(otlp.interval, Duration::from_secs(1));
    assert_eq!(otlp.logs.unwrap().sample.value(), 0.0);
}

#[test]
fn what_is_kept_holds_one_file_at_least() {
    assert_eq!(
        told("[http]\n[history]\nroll_size = \"20GiB\"")
            .lines()
            .next(),
        Some(
            "tracer.toml:2:1: keep_size, 10.0 GiB, is less than roll_size, 20.0 GiB: not one file \
             could be kept"
        )
    );
    assert_eq!(
        reason("[history]\nkeep = \"10s\"\nroll_after = \"11s\""),
        "keep, 10s, is less than roll_after, 11s: not one file could be kept"
    );
    assert!(parse("[history]\nkeep = \"10s\"\nroll_after = \"10s\"").is_ok());
}

proptest! {
    #[test]
    fn whatever_the_text_a_mistake_has_a_place_in_it(
        text in r#"(\[trace\]|calls|buffer|=|"3MiB"|"|\[|\]|ü|\n|\r\n|\t| |#|\PC){0,20}"#,
    ) {
        if let Err(AgentConfigError::Mistake(mistake)) = parse(&text) {
            let line = text.split('\n').nth(mistake.line - 1).expect("a line of the text");
            prop_assert!(mistake.column <= line.chars().count() + 1, "{}", mistake);
            prop_assert_eq!(mistake.to_string().lines().count(), 4);
        }
    }
}
