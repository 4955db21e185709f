//! Commands that can be pasted into a shell, whatever the names in them.

use std::time::Duration;

use super::seen::Seen;
use crate::output::text;

/// Cookie of the network namespace that the kernel makes first: the host's own.
const HOST: u64 = 1;

/// The command that sets a sysctl in a network namespace.
#[must_use]
pub fn sysctl(seen: &Seen, netns_cookie: u64, name: &str, value: &str) -> String {
    let quote = match value.contains([' ', ',']) {
        true => "\"",
        false => "",
    };
    let prefix = prefix(seen, netns_cookie);
    format!("{prefix}sysctl -w {name}={quote}{value}{quote}")
}

/// What to write before a command so that it runs in a network namespace: nothing for the host's
/// own.
#[must_use]
pub fn prefix(seen: &Seen, netns_cookie: u64) -> String {
    if netns_cookie == HOST {
        return String::new();
    }
    let inode = seen.namespaces.get(&netns_cookie).map(|netns| netns.inode);
    if let Some(name) = inode.and_then(|inode| seen.names.netns(inode))
        && let Some(quoted) = quoted(name)
    {
        return format!("ip netns exec {quoted} ");
    }
    // Any process in it would do. The latest that held a port is the likeliest to be there still.
    let routes = seen.ports.routes();
    let here = routes.filter(|(route, _)| route.netns_cookie == netns_cookie);
    let holders = here.flat_map(|(_, used)| used.programs.values());
    let holding = holders.filter_map(|holders| holders.pids.last()).max();
    let opening = || {
        let routes = seen.tallies.routes.iter();
        let here = routes.filter(|(route, _)| route.netns_cookie == netns_cookie);
        let traffic = here.flat_map(|(_, programs)| programs.values());
        traffic.filter_map(|traffic| traffic.pids.last()).max()
    };
    let pid = holding.or_else(opening);
    match pid {
        Some(pid) => format!("nsenter --net=/proc/{pid}/ns/net "),
        None => "nsenter --net=/proc/PID/ns/net ".to_owned(),
    }
}

/// `name` as one word of a shell. `None`: it holds what no terminal should be sent.
fn quoted(name: &str) -> Option<String> {
    let is_plain =
        |character: char| character.is_ascii_alphanumeric() || "-_.:@".contains(character);
    if !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain) {
        return Some(name.to_owned());
    }
    let is_shown_as_it_is = text::escaped(name.as_bytes()) == name;
    (is_shown_as_it_is && !name.is_empty() && !name.starts_with('-'))
        .then(|| format!("'{}'", name.replace('\'', "'\\''")))
}

/// A length of time as people read it: `25ms`, `1s`, `60.96s`, `4m10s`.
#[must_use]
pub(super) fn seconds(length: Duration) -> String {
    let text = text::duration(u64::try_from(length.as_nanos()).unwrap_or(u64::MAX));
    text.replace(".00s", "s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{self, Example, pid, program, route};
    use crate::ports::Route;
    use crate::record::holding::Use;

    const OTHER: u64 = 77;

    #[test]
    fn a_command_runs_in_the_namespace_that_it_is_for() {
        let mut example = Example::new();
        let reuse =
            |example: &Example, cookie| sysctl(&example.seen, cookie, "net.ipv4.tcp_tw_reuse", "1");
        assert_eq!(
            reuse(&example, example::HOST),
            "sysctl -w net.ipv4.tcp_tw_reuse=1"
        );
        example.netns(OTHER, 4_026_532_999, Some("blue"));
        assert_eq!(
            reuse(&example, OTHER),
            "ip netns exec blue sysctl -w net.ipv4.tcp_tw_reuse=1"
        );
        example.netns(OTHER, 4_026_532_999, None);
        let php = program("php-fpm");
        let there = Route {
            netns_cookie: OTHER,
            ..route("10.0.0.9:3306")
        };
        example.hold(there, php, Use::TimeWait, 1);
        assert_eq!(
            reuse(&example, OTHER),
            format!(
                "nsenter --net=/proc/{}/ns/net sysctl -w net.ipv4.tcp_tw_reuse=1",
                pid(&php)
            )
        );
    }

    #[test]
    fn a_name_cannot_add_to_a_command() {
        let mut example = Example::new();
        example.netns(OTHER, 4_026_532_999, Some("a; rm -rf $(x) 'y'"));
        assert_eq!(
            prefix(&example.seen, OTHER),
            "ip netns exec 'a; rm -rf $(x) '\\''y'\\''' "
        );
        for evil in ["\x1b[2J", "a\nb", "-x", ""] {
            example.netns(OTHER, 4_026_532_999, Some(evil));
            assert_eq!(
                prefix(&example.seen, OTHER),
                "nsenter --net=/proc/PID/ns/net "
            );
        }
    }
}
