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
        "unknown key `trase`, expected one of `trace`, `http`, `metrics`, `health`, `history`, \
         `host`"
    );
    assert_eq!(
        reason("[trace]\nbufer = \"1MiB\""),
        "unknown key `bufer`, expected one of `buffer`, `without`, `calls`"
    );
    assert!(
        reason("[trace]\nwithout = [\"schedule\", \"timer\"]")
            .starts_with("there is no such probe; the probes are set_state, set_state_2, ")
    );
    assert_eq!(
        reason("[trace]\nwithout = [\"set_state\"]"),
        "nothing can be traced without it"
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
            "[[history]]\nkeep = \"1d\"",
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
            "[metrics]\ndestinations = \"all\"",
            "invalid type: string \"all\", expected a whole number from 0 to 1000",
        ),
        (
            "[metrics]\nseries = 1e3",
            "invalid type: floating point `1000.0`, expected a whole number from 100 to 1000000",
        ),
        (
            "[history]\nroll_after = 15",
            "invalid type: integer `15`, expected a length of time in quotes, such as \"5m\"",
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
    ] {
        assert_eq!(reason(text), told, "{text}");
    }
}

#[test]
fn a_value_that_cannot_be_is_told_with_one_that_can() {
    let listen = "expected an address with its port, such as 127.0.0.1:9435 or [::1]:9435, or off";
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
            "[metrics]\ndestinations = 1001",
            "1001 is not between 0 and 1000",
        ),
        (
            "[metrics]\nseries = -1",
            "-1 is not between 100 and 1000000",
        ),
        ("[health]\nlosses = 1.5", "1.5 is not between 0 and 1"),
        ("[health]\nlosses = 2", "2 is not between 0 and 1"),
        ("[health]\nlosses = -0.1", "-0.1 is not between 0 and 1"),
        ("[health]\nlosses = nan", "NaN is not between 0 and 1"),
        ("[history]\nroll_after = \"999ms\"", "999ms is less than 1s"),
        ("[history]\nkeep = \"10ms\"", "10ms is less than 1s"),
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
    let least = parse("[metrics]\ndestinations = 0\nseries = 100\n[health]\nlosses = 0.0").unwrap();
    assert_eq!((least.metrics.destinations, least.metrics.series), (0, 100));
    assert_eq!(least.health.losses.value(), 0.0);
    let most = parse(
        "[metrics]\ndestinations = 1000\nseries = 1_000_000\n[health]\nlosses = 1\n\
         [history]\ndirectory = \"/a\"\nroll_after = \"1s\"\nroll_size = \"1MiB\"",
    )
    .unwrap();
    assert_eq!(
        (most.metrics.destinations, most.metrics.series),
        (1_000, 1_000_000)
    );
    assert_eq!(most.health.losses.value(), 1.0);
    let history = most.history.unwrap();
    assert_eq!(
        (history.roll_after, history.roll_size),
        (Duration::from_secs(1), 1 << 20)
    );
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
