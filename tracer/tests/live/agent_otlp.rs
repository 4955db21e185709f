//! The daemon and a collector: what arrives there is what the drivers did.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;

use rustix::process::Signal;

use crate::daemon::{Agent, config_with};
use crate::drivers::{Route, reset_on_close};
use crate::gate;
use crate::namespace::Namespace;
use crate::others::Others;
use crate::receiver::{Answer, Inbox, Receiver, text};

/// Nobody may read it in the log.
const SECRET: &str = "hush-4711";

/// The closes with a port in 24111 to 24119, by kind, cause and initiator.
fn closes(inbox: &Inbox) -> BTreeMap<(String, String, String), u64> {
    let mut closes = BTreeMap::new();
    for record in inbox.records() {
        assert_eq!(record.event_name, "tracer.tcp.close");
        let fact = |key: &str| text(&record.attributes, key).unwrap_or_default();
        let ports = [fact("network.local.port"), fact("network.peer.port")];
        if ports.iter().any(|port| port.starts_with("2411")) {
            let verdict = ["kind", "cause", "initiator"];
            let [kind, cause, initiator] = verdict.map(|it| {
                let name = format!("tracer.close.{it}");
                text(&record.attributes, &name).unwrap_or_default()
            });
            *closes.entry((kind, cause, initiator)).or_default() += 1;
        }
    }
    closes
}

fn expected(closes: &[(&str, &str, &str, u64)]) -> BTreeMap<(String, String, String), u64> {
    let owned = |text: &str| text.to_owned();
    closes
        .iter()
        .map(|(kind, cause, by, count)| ((owned(kind), owned(cause), owned(by)), *count))
        .collect()
}

#[test]
fn what_the_collector_gets_is_what_the_drivers_did() {
    // The metrics tell of the whole host.
    gate::alone(|| {
        let namespace = Namespace::new();
        let receiver = Receiver::start();
        // Whatever is sent first is to be sent again.
        receiver.answer(vec![Answer::Status(503, None), Answer::Status(502, None)]);
        let others = Others::now();
        let agent = Agent::start(&format!(
            "[otlp]\nendpoint = \"{}\"\ninterval = \"1s\"\n\
             headers = {{ authorization = \"Bearer {SECRET}\" }}\n\
             [otlp.logs]\nenabled = true\n\
             kinds = [\"reset_sent\", \"reset_received\", \"connect_failed\"]\n\
             [host]\nname = \"web-1\"\n",
            receiver.url()
        ));
        let refused: SocketAddr = "127.0.0.1:24111".parse().expect("an address");
        namespace.run(|| {
            for _ in 0..30 {
                TcpStream::connect(refused).expect_err("nobody listens");
            }
        });
        let server = Route::loopback(&namespace).listen(24_112);
        for _ in 0..20 {
            server.connect().close_client_first();
        }
        for _ in 0..10 {
            let pair = server.connect();
            reset_on_close(&pair.client);
        }
        let expected = expected(&[
            ("connect_failed", "refused", "peer", 30),
            ("reset_received", "peer_reset", "peer", 10),
            ("reset_sent", "linger_zero", "local", 10),
        ]);
        receiver.wait_until("every close", |inbox| {
            let count: u64 = closes(inbox).values().sum();
            count >= 50 && inbox.metrics.len() >= 3
        });
        // No two more of them, and none of the twenty that closed in order.
        assert_eq!(closes(&receiver.inbox()), expected);

        let failures = [("cause", "refused")];
        let resets = [
            ("kind", "reset_sent"),
            ("cause", "linger_zero"),
            ("initiator", "local"),
            ("role", "client"),
        ];
        receiver.wait_until("the metrics", |inbox| {
            let is_within = |name, labels: &[_], range: RangeInclusive<f64>| {
                inbox
                    .value(name, labels)
                    .is_some_and(|it| range.contains(&it))
            };
            is_within(
                "tracer.tcp.connect_failures",
                &failures,
                others.and_failed(30.0),
            ) && is_within("tracer.tcp.closes", &resets, others.and_reset(10.0))
                && inbox.value("tracer.otlp.log_records", &[("result", "sent")]) >= Some(50.0)
        });
        {
            let inbox = receiver.inbox();
            let refused = inbox.records().find(|record| {
                text(&record.attributes, "network.peer.port").as_deref() == Some("24111")
            });
            let refused = refused.expect("one that was refused");
            let fact = |key| text(&refused.attributes, key);
            assert_eq!(refused.severity_text, "WARN");
            assert_eq!(fact("network.peer.address").as_deref(), Some("127.0.0.1"));
            assert_eq!(fact("error.type").as_deref(), Some("ECONNREFUSED"));
            let pid = std::process::id().to_string();
            assert_eq!(fact("process.pid"), Some(pid));
            assert_eq!(fact("tracer.netns"), Some(namespace.inode.to_string()));
            assert!(inbox.heads.iter().all(|head| {
                let value = head.get("authorization").expect("a header");
                value.as_bytes() == format!("Bearer {SECRET}").as_bytes()
            }));
        }
        let (exit, log) = agent.stop();
        assert!(exit.success(), "{log}");
        assert!(log.contains("the collector does not take"), "{log}");
        assert!(!log.contains(SECRET), "{log}");
        // The last word: what /metrics would say at the end.
        let inbox = receiver.inbox();
        let waiting = inbox.value("tracer.otlp.log_records_waiting", &[]);
        let waiting = waiting.expect("how many");
        assert!(
            others.and_failed(0.0).contains(&waiting),
            "{waiting}\n{log}"
        );
    });
}

#[test]
fn a_reload_sends_elsewhere_and_loses_nothing() {
    gate::quiet(|| {
        let namespace = Namespace::new();
        let config = |receiver: &Receiver| {
            format!(
                "[otlp]\nendpoint = \"{}\"\ninterval = \"1s\"\n\
                 [otlp.logs]\nenabled = true\nkinds = [\"reset_sent\"]\n",
                receiver.url()
            )
        };
        let [before, after] = [Receiver::start(), Receiver::start()];
        let agent = Agent::start(&config(&before));
        let server = Route::loopback(&namespace).listen(24_115);
        let reset = |count| {
            for _ in 0..count {
                let pair = server.connect();
                reset_on_close(&pair.client);
            }
        };
        reset(10);
        fs::write(agent.file(), config_with(agent.address, &config(&after))).expect("write");
        agent.signal(Signal::HUP);
        agent.wait_until_told("RELOADING=1");
        agent.wait_until_told("READY=1");
        reset(10);
        let (exit, log) = agent.stop();
        assert!(exit.success(), "{log}");
        let both = [&before, &after].map(|receiver| {
            let closes = closes(&receiver.inbox());
            let ours = ("reset_sent", "linger_zero", "local");
            let [kind, cause, by] = [ours.0, ours.1, ours.2].map(str::to_owned);
            closes.get(&(kind, cause, by)).copied().unwrap_or(0)
        });
        assert_eq!(both[0] + both[1], 20, "{both:?}\n{log}");
        assert!(both[1] >= 10, "{both:?}\n{log}");
        assert!(!after.inbox().metrics.is_empty());
    });
}
