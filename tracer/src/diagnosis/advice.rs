//! What practitioners pass around against TIME_WAIT, each piece weighed for this host.
//!
//! Every piece has its own function, which says what it brings here in figures, or `None` where it
//! brings nothing. [`super::relief`] puts them in order.

use std::time::Duration;

use super::command::{seconds, sysctl};
use super::finding::Advice;
use super::load::Load;
use super::seen::Seen;
use crate::output::text;
use crate::ports::{Route, Space, collisions, reservation};
use crate::stream::Settings;

/// The lowest port that a wider range is advised to begin with: below are the ports that most
/// services are given (3306, 5432, 6379, 8080, 9092).
const FIRST_PORT: u16 = 10_240;

/// 1. Keep connections open, in a pool or by keep-alive.
#[must_use]
pub fn reuse_connections(load: &Load, who: &str) -> Advice {
    let what = format!("keep connections open in {who}, in a pool or by keep-alive");
    let (proposed, effect) = match (load.pool(), load.life) {
        (Some(pool), Some(life)) => {
            let connections = match pool {
                1 => "1 connection".to_owned(),
                pool => format!("{} connections", text::count(pool)),
            };
            let effect = format!(
                "{} connects/s, each busy for {} on average, keep {} busy at a time: that many ports \
                 in place of {}",
                rate(load.wanted),
                duration(life),
                connections,
                text::count(load.used.max(load.steady_state() as u64)),
            );
            (Some(format!("a pool of {connections} or more")), effect)
        }
        _ => {
            let effect = "a connection that is used again takes no new port; how many would do is \
                          not known, since none was seen from its opening to its close";
            (None, effect.to_owned())
        }
    };
    Advice {
        what,
        command: None,
        present: Some(match load.life {
            Some(life) => format!("one connection a request, closed after {}", duration(life)),
            None => "connections are opened and closed".to_owned(),
        }),
        proposed,
        effect,
        caution: Some(
            "size the pool for the busiest second; have it close idle connections sooner than the \
             server does, or a request meets one that the server has just closed"
                .to_owned(),
        ),
        reference: "RFC 9293 3.6.1",
    }
}

/// 2. Let the server close first. `None`: it does already.
#[must_use]
pub fn let_the_server_close(load: &Load) -> Option<Advice> {
    if load.time_wait_share < 0.1 {
        return None;
    }
    Some(Advice {
        what: "let the server close first, by its protocol".to_owned(),
        command: None,
        present: Some(format!(
            "this side closes first in {} of the connections",
            percent(load.time_wait_share)
        )),
        proposed: Some("the server's side closes first".to_owned()),
        effect:
            "who closes first keeps the TIME_WAIT; a server's all lie on its one port and hold \
                 no ephemeral port"
                .to_owned(),
        caution: Some(
            "\"let the client close\" is right for a server's clients; on a proxy, which is the \
             client of what is behind it, it is what causes this"
                .to_owned(),
        ),
        reference: "RFC 9293 3.6.1",
    })
}

/// 3. tcp_tw_reuse=1. `None`: it is so already, or it would do nothing here.
#[must_use]
pub fn reuse_time_waits(seen: &Seen, route: &Route, load: &Load) -> Option<Advice> {
    let settings = seen.settings(route.netns_cookie)?;
    let present = settings.tw_reuse?;
    let is_allowed = present == 1 || (present == 2 && route.source.is_loopback());
    if is_allowed || settings.timestamps == Some(0) || load.time_waits == 0 {
        return None;
    }
    // Without timestamps in most connections it does nothing, for bound ports neither.
    if load.timestamps.is_some_and(|share| share < 0.5) || load.bound_share > 0.5 {
        return None;
    }
    let delay = reuse_delay(settings);
    let share = load.timestamps.map_or_else(
        || "timestamps are on here; whether the peer uses them was not seen yet".to_owned(),
        |share| format!("{} of the connections use timestamps", percent(share)),
    );
    let now = load.capacity.and_then(|capacity| load.bears(capacity));
    let bears = reuse_bears(settings, load).zip(now);
    let bears = bears.map_or_else(String::new, |(then, now)| {
        let (then, now) = (rate(then), rate(now));
        format!(": the route then bears {then} connections/s in place of {now}")
    });
    Some(Advice {
        what: "let connect() take over TIME_WAITs".to_owned(),
        command: Some(sysctl(seen, route.netns_cookie, "net.ipv4.tcp_tw_reuse", "1")),
        present: Some(present.to_string()),
        proposed: Some("1".to_owned()),
        effect: format!(
            "{}a TIME_WAIT can be taken over after {}{bears}; {share}",
            match present {
                2 => "with 1 (2 is for loopback alone) ",
                _ => "",
            },
            duration(delay)
        ),
        caution: Some(
            "for connections that this host opens; timestamps keep old segments out (PAWS), a peer \
             without them is not helped, and a port that a client bound is not either"
                .to_owned(),
        ),
        reference: "RFC 6191; RFC 7323 5; man 7 tcp",
    })
}

/// Connections a second that a route bears with tcp_tw_reuse=1.
#[must_use]
pub fn reuse_bears(settings: &Settings, load: &Load) -> Option<f64> {
    // Those without timestamps go on to wait the whole time.
    let share = load.timestamps.unwrap_or(1.0);
    let (short, long) = (reuse_delay(settings), load.dwell.mean);
    load.bears_with(
        load.capacity?,
        short.mul_f64(share) + long.mul_f64(1.0 - share),
    )
}

fn reuse_delay(settings: &Settings) -> Duration {
    Duration::from_millis(settings.tw_reuse_delay_ms.unwrap_or(1_000).into())
}

/// A range of ports that is wider than the present one, and what is in its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wider {
    /// Both ends included.
    pub range: (u16, u16),
    /// How many tuples to one destination it allows, once the listeners in it are reserved.
    pub capacity: u64,
    /// Ports of listeners that connect() could take from them while they restart: in order.
    pub collisions: Vec<u16>,
    /// The `ip_local_reserved_ports` that prevents that, those that are reserved now included.
    pub reservation: String,
}

/// The widest range that is advised. `None`: it is as wide already, or is not known.
#[must_use]
pub fn wider(seen: &Seen, netns_cookie: u64) -> Option<Wider> {
    let settings = seen.settings(netns_cookie)?;
    let (first, last) = settings.port_range?;
    let range = (first.min(FIRST_PORT), u16::MAX);
    if range == (first, last) {
        return None;
    }
    let space = Space::with_range(&seen.ports, netns_cookie, settings, range)?;
    let is_reserved = |port: u16| {
        let mut spans = settings.reserved_ports.iter();
        spans.any(|(first, last)| (*first..=*last).contains(&port))
    };
    let mut collisions = collisions(&seen.ports, netns_cookie, range);
    collisions.retain(|port| !is_reserved(*port));
    Some(Wider {
        range,
        capacity: space.capacity(),
        reservation: reservation(settings, &collisions),
        collisions,
    })
}

/// 4. A wider ip_local_port_range. `None`: it is wide already, or not known.
#[must_use]
pub fn widen_the_range(seen: &Seen, route: &Route, load: &Load) -> Option<Advice> {
    let settings = seen.settings(route.netns_cookie)?;
    let (first, last) = settings.port_range?;
    let capacity = load.capacity?;
    let wider = wider(seen, route.netns_cookie).filter(|wider| wider.capacity > capacity)?;
    let proposed = format!("{} {}", wider.range.0, wider.range.1);
    let name = "net.ipv4.ip_local_port_range";
    let mut command = sysctl(seen, route.netns_cookie, name, &proposed);
    let mut caution = "services below the old range that do not run now may find their port taken \
                       when they start: reserve theirs too"
        .to_owned();
    if !wider.collisions.is_empty() {
        let name = "net.ipv4.ip_local_reserved_ports";
        let reserve = sysctl(seen, route.netns_cookie, name, &wider.reservation);
        command = format!("{reserve} && {command}");
        let listeners: Vec<String> = wider.collisions.iter().map(u16::to_string).collect();
        caution = format!(
            "the first command reserves the listeners' ports in it ({}), which connect() could \
             take while they restart; {caution}",
            listeners.join(", ")
        );
    }
    let factor = match capacity {
        0 => String::new(),
        capacity => format!(
            ", {:.1} times as many",
            wider.capacity as f64 / capacity as f64
        ),
    };
    let bears = load.bears(wider.capacity).zip(load.bears(capacity));
    let bears = bears.map_or_else(String::new, |(then, now)| {
        let (then, now) = (rate(then), rate(now));
        format!(": {then} connections/s in place of {now}")
    });
    Some(Advice {
        what: "widen the range that connect() takes its ports from".to_owned(),
        command: Some(command),
        present: Some(format!("{first} {last}")),
        proposed: Some(proposed),
        effect: format!(
            "{} ports to each destination in place of {}{factor}{bears}",
            text::count(wider.capacity),
            text::count(capacity),
        ),
        caution: Some(caution),
        reference: "man 7 ip",
    })
}

/// 5. More addresses, on either side. `None`: the capacity is not known or is enough.
#[must_use]
pub fn more_addresses(load: &Load) -> Option<Advice> {
    let capacity = load.capacity.filter(|capacity| *capacity > 0)?;
    let addresses = (load.steady_state() / capacity as f64).ceil() as u64;
    let addresses = addresses.max(2);
    Some(Advice {
        what: "spread the connections over more source addresses, or more addresses or ports of \
               the destination"
            .to_owned(),
        command: None,
        present: Some("1 source address to 1 address and port".to_owned()),
        proposed: Some(format!("{} of either", text::count(addresses))),
        effect: format!(
            "each pair has its own {} ports; {} connections/s want {}",
            text::count(capacity),
            rate(load.wanted),
            text::count(addresses),
        ),
        caution: Some(
            "a client that chooses its source address by bind() needs IP_BIND_ADDRESS_NO_PORT, or \
             it takes its ports from all destinations at once"
                .to_owned(),
        ),
        reference: "man 7 ip (IP_BIND_ADDRESS_NO_PORT)",
    })
}

/// 6. Leave the source port to the kernel.
#[must_use]
pub fn leave_the_port_to_the_kernel() -> Advice {
    Advice {
        what: "leave the source port to connect(): no bind(), or one with port 0 and \
               IP_BIND_ADDRESS_NO_PORT"
            .to_owned(),
        command: Some(
            "setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one)".to_owned(),
        ),
        present: Some("the port is taken by bind()".to_owned()),
        proposed: Some("the port is chosen by connect()".to_owned()),
        effect: "a port that bind() took is lost to all destinations, one that connect() chose to \
                 one alone; and connect() walks past a tuple that is taken, which a bound socket \
                 cannot"
            .to_owned(),
        caution: Some(
            "before bind(); also a source address set in a client's or proxy's configuration is a \
             bind()"
                .to_owned(),
        ),
        reference: "man 7 ip (IP_BIND_ADDRESS_NO_PORT)",
    }
}

/// 7. SO_REUSEADDR on a listener.
#[must_use]
pub fn reuse_address_on_the_listener() -> Advice {
    Advice {
        what: "set SO_REUSEADDR on the listening socket before bind()".to_owned(),
        command: Some("setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one)".to_owned()),
        present: Some("not set".to_owned()),
        proposed: Some("set".to_owned()),
        effect: "the listener can be restarted while TIME_WAITs hold its port".to_owned(),
        caution: Some(
            "on a client it does not help: bind() then succeeds, and connect() fails all the same"
                .to_owned(),
        ),
        reference: "man 7 socket; man 7 ip",
    }
}

/// What not to change where TIME_WAITs hold ports, and why.
#[must_use]
pub fn warnings(seen: &Seen, netns_cookie: u64) -> Vec<String> {
    let settings = seen.settings(netns_cookie);
    let fin_timeout = settings.and_then(|settings| settings.fin_timeout_s);
    let buckets = settings.and_then(|settings| settings.max_tw_buckets);
    let present =
        |value: Option<u32>| value.map_or_else(String::new, |value| format!(" (now {value})"));
    vec![
        format!(
            "tcp_fin_timeout{} does not shorten TIME_WAIT: it is FIN_WAIT2's. Nothing on Linux \
             does: the 60 s are compiled in, and AIX's tcp_timewait has no equivalent.",
            present(fin_timeout)
        ),
        "tcp_tw_recycle is gone since Linux 4.12, and broke clients behind NAT before.".to_owned(),
        "SO_LINGER with 0 avoids TIME_WAIT by a reset, which loses data that is under way \
         (RFC 1337)."
            .to_owned(),
        lower_buckets(&present(buckets)),
        "SO_REUSEADDR on a client: bind() succeeds, and connect() fails all the same.".to_owned(),
    ]
}

/// Why the limit of TIME_WAITs is not to be lowered.
#[must_use]
pub fn lower_buckets(present: &str) -> String {
    format!(
        "A lower tcp_max_tw_buckets{present} frees ports by making no TIME_WAIT, and with it goes \
         what TIME_WAIT protects: old segments can reach the next connection (RFC 9293 3.6.1)."
    )
}

/// A rate as people read it: whole from 10 on.
#[must_use]
pub fn rate(each_second: f64) -> String {
    match each_second {
        rate if rate >= 9.95 => text::count(rate.round() as u64),
        rate => format!("{rate:.1}"),
    }
}

/// A share as people read it.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        percent if percent > 0.0 && percent < 1.0 => "under 1 %".to_owned(),
        percent if percent > 99.0 && percent < 100.0 => "over 99 %".to_owned(),
        percent => format!("{percent:.0} %"),
    }
}

/// A length of time as people read it.
#[must_use]
pub fn duration(length: Duration) -> String {
    seconds(length)
}
