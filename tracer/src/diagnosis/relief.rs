//! Which advice comes first for a route whose ports run out: decided by figures.

use super::advice::{self, rate};
use super::finding::Advice;
use super::load::Load;
use super::seen::Seen;
use crate::output::text;
use crate::ports::Route;
use crate::record::holding::Use;

/// What to change so that `who` can connect on `route`: first the one line that is enough at once,
/// where there is one, then the cure in the program, then the rest.
///
/// A line is enough where what the route then bears is no less than what is asked of it. Of those
/// that are, tcp_tw_reuse comes first: it changes no port's meaning. Where none is, the cure is
/// first, since nothing else will do.
#[must_use]
pub fn relief(seen: &Seen, route: &Route, load: &Load, who: &str) -> Vec<Advice> {
    let cure = cure(seen, route, load, who);
    let mut first = Vec::new();
    let mut later = Vec::new();
    for (mut advice, bears) in at_once(seen, route, load) {
        let is_enough = bears.is_some_and(|bears| bears > 0.0 && bears >= load.wanted);
        if load.wanted > 0.0 && bears.is_some() {
            let verdict = match is_enough {
                true => "enough for the",
                false => "not enough alone for the",
            };
            let wanted = rate(load.wanted);
            // Behind the first clause, which is what a short report shows.
            let end = advice.effect.find("; ").unwrap_or(advice.effect.len());
            let words = format!(", {verdict} {wanted}/s that are wanted");
            advice.effect.insert_str(end, &words);
        }
        match is_enough && first.is_empty() {
            true => first.push(advice),
            false => later.push(advice),
        }
    }
    if load.bound_share > 0.5 {
        first.insert(0, advice::leave_the_port_to_the_kernel());
    }
    first.push(cure);
    first.extend(advice::let_the_server_close(load));
    first.append(&mut later);
    first.extend(advice::more_addresses(load));
    first
}

/// What one command changes, and the connections a second that the route then bears.
fn at_once(seen: &Seen, route: &Route, load: &Load) -> Vec<(Advice, Option<f64>)> {
    let wider = advice::wider(seen, route.netns_cookie);
    let wider = wider.and_then(|wider| load.bears(wider.capacity));
    let wider = advice::widen_the_range(seen, route, load).map(|advice| (advice, wider));
    let settings = seen.settings(route.netns_cookie);
    let reuse = settings.and_then(|settings| advice::reuse_bears(settings, load));
    let reuse = advice::reuse_time_waits(seen, route, load).map(|advice| (advice, reuse));
    reuse.into_iter().chain(wider).collect()
}

/// What to change in the program: by what holds most of the ports.
fn cure(seen: &Seen, route: &Route, load: &Load, who: &str) -> Advice {
    let counts = seen
        .ports
        .route(route)
        .map(|used| used.counts)
        .unwrap_or_default();
    let most = Use::ALL.into_iter().max_by_key(|by| counts.of(*by));
    let (what, effect, reference) = match most {
        Some(Use::Established) => (
            format!("have {who} share or close connections: most of the ports are ESTABLISHED"),
            format!(
                "{} connections are open at one time",
                text::count(counts.of(Use::Established))
            ),
            "RFC 9293 3.6",
        ),
        Some(Use::CloseWait) => (
            format!("have {who} close what its peer has closed: most of the ports are CLOSE_WAIT"),
            format!("{} ports come free", text::count(counts.of(Use::CloseWait))),
            "RFC 9293 3.6",
        ),
        Some(Use::FinWait2) => (
            "have the peer close what this host has closed: most of the ports are FIN_WAIT2"
                .to_owned(),
            format!("{} ports come free", text::count(counts.of(Use::FinWait2))),
            "RFC 9293 3.6; man 7 tcp (tcp_fin_timeout)",
        ),
        _ => return advice::reuse_connections(load, who),
    };
    Advice {
        what,
        effect,
        reference,
        ..Advice::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnosis::example::{Example, program, route};
    use crate::diagnosis::traffic::Traffic;
    use crate::record::{CloseKind, Initiator};

    /// All ports in TIME_WAIT, `each_second` connects a second, each of 20 ms.
    fn exhausted(each_second: u32) -> (Example, Route) {
        let mut example = Example::new();
        let (there, php) = (route("10.0.0.9:3306"), program("php-fpm"));
        example.settings().port_range = Some((32_768, 33_767));
        example.hold(there, php, Use::TimeWait, 1_000);
        example.open(there, php, each_second);
        let traffic = example.traffic(there, php);
        traffic.add_closes(CloseKind::Active, None, Initiator::Local, 100);
        traffic.with_timestamps = 100;
        (0..100).for_each(|_| traffic.add_life(20_000_000));
        (example, there)
    }

    fn advised((example, there): &(Example, Route)) -> Vec<Advice> {
        let load = Load::of(&example.seen, there);
        relief(&example.seen, there, &load, "php-fpm")
    }

    fn traffic((example, there): &mut (Example, Route)) -> &mut Traffic {
        example.traffic(*there, program("php-fpm"))
    }

    fn begins(advice: &Advice, with: &str) -> bool {
        advice.what.starts_with(with)
    }

    #[test]
    fn reuse_of_time_waits_comes_first_where_it_is_enough() {
        let advice = advised(&exhausted(100));
        let first = &advice[0];
        assert_eq!(
            first.command.as_deref(),
            Some("sysctl -w net.ipv4.tcp_tw_reuse=1")
        );
        assert_eq!(first.present.as_deref(), Some("2"));
        // 1,000 ports, each held for 1.02 s.
        assert!(
            first
                .effect
                .contains("bears 980 connections/s in place of 17"),
            "{first:?}"
        );
        assert!(
            first
                .effect
                .contains("enough for the 100/s that are wanted"),
            "{first:?}"
        );
        let cure = &advice[1];
        assert!(begins(cure, "keep connections open in php-fpm"), "{cure:?}");
        assert_eq!(
            cure.proposed.as_deref(),
            Some("a pool of 2 connections or more")
        );
    }

    #[test]
    fn a_wider_range_comes_first_where_it_is_enough_and_reuse_does_nothing() {
        let mut host = exhausted(100);
        traffic(&mut host).with_timestamps = 0;
        traffic(&mut host).without_timestamps = 100;
        let advice = advised(&host);
        assert_eq!(
            advice[0].command.as_deref(),
            Some("sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\"")
        );
        assert!(advice.iter().all(|advice| !begins(advice, "let connect()")));
    }

    #[test]
    fn the_cure_comes_first_where_no_setting_is_enough() {
        let host = exhausted(1_000);
        let advice = advised(&host);
        assert!(
            begins(&advice[0], "keep connections open"),
            "{:?}",
            advice[0]
        );
        let reuse = advice.iter().find(|advice| begins(advice, "let connect()"));
        assert!(reuse.unwrap().effect.contains("not enough alone"));
    }

    #[test]
    fn reuse_is_not_advised_where_it_is_on_nor_on_loopback_nor_without_timestamps() {
        let is_advised = |host: &(Example, Route)| {
            advised(host)
                .iter()
                .any(|advice| begins(advice, "let connect()"))
        };
        let mut host = exhausted(100);
        assert!(is_advised(&host));
        host.0.settings().timestamps = Some(0);
        assert!(!is_advised(&host));
        host.0.settings().timestamps = Some(1);
        host.0.settings().tw_reuse = Some(1);
        assert!(!is_advised(&host));
        host.0.settings().tw_reuse = None;
        assert!(!is_advised(&host));
        let mut example = Example::new();
        let here = route("127.0.0.1:3306");
        example.hold(here, program("x"), Use::TimeWait, 10);
        assert!(!is_advised(&(example, here)));
    }

    #[test]
    fn a_wider_range_reserves_the_listeners_that_it_would_collide_with() {
        let mut host = exhausted(100);
        host.0.settings().tw_reuse = Some(1);
        host.0.settings().reserved_ports = vec![(11_211, 11_212), (40_000, 40_000)];
        for address in [
            "0.0.0.0:27017",
            "0.0.0.0:11213",
            "0.0.0.0:11211",
            "0.0.0.0:8080",
        ] {
            host.0.listen(address, program("server"));
        }
        let advice = advised(&host);
        let wider = advice
            .iter()
            .find(|advice| begins(advice, "widen"))
            .unwrap();
        assert_eq!(
            wider.command.as_deref(),
            Some(
                "sysctl -w net.ipv4.ip_local_reserved_ports=\"11211-11213,27017,40000\" && \
                 sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\""
            )
        );
        assert!(
            wider.caution.as_ref().unwrap().contains("(11213, 27017)"),
            "{wider:?}"
        );
        assert!(wider.effect.starts_with("55,291 ports"), "{wider:?}");
    }

    #[test]
    fn ports_of_open_connections_come_free_by_no_setting() {
        let mut example = Example::new();
        let there = route("10.0.0.9:3306");
        example.hold(there, program("php-fpm"), Use::Established, 28_232);
        let advice = advised(&(example, there));
        assert!(
            begins(&advice[0], "have php-fpm share or close"),
            "{:?}",
            advice[0]
        );
        assert!(advice.iter().all(|advice| !begins(advice, "let connect()")));
    }

    #[test]
    fn connections_that_stay_open_leave_their_ports_to_nobody() {
        let mut example = Example::new();
        let (there, php) = (route("10.0.0.9:3306"), program("php-fpm"));
        example.hold(there, program("java"), Use::Established, 20_000);
        example.hold(there, php, Use::TimeWait, 8_232);
        example.open(there, php, 200);
        let traffic = example.traffic(there, php);
        traffic.add_closes(CloseKind::Active, None, Initiator::Local, 100);
        (0..100).for_each(|_| traffic.add_life(10_000_000));
        let advice = advised(&(example, there));
        // 8,232 ports are left for what comes and goes.
        let effect = &advice[0].effect;
        assert!(
            effect.contains("bears 8,152 connections/s in place of 137"),
            "{effect}"
        );
    }

    #[test]
    fn clients_that_bind_their_port_are_to_stop_first() {
        let mut host = exhausted(100);
        let (there, php) = (host.1, program("php-fpm"));
        host.0.hold_bound(there, php, Use::TimeWait, 1_001);
        let advice = advised(&host);
        assert!(
            begins(&advice[0], "leave the source port"),
            "{:?}",
            advice[0]
        );
        // Nor would it do anything for them.
        assert!(advice.iter().all(|advice| !begins(advice, "let connect()")));
    }
}
