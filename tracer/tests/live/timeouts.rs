//! Connections whose peer fell silent: each way in which the kernel gives up.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::drivers::{Pair, Route, reset_on_close};
use crate::gate;
use crate::namespace::VethPair;
use crate::tracer::{SOON, Tracer, ports};

#[test]
fn a_silent_peer_is_given_up_for_the_reason_that_the_record_names() {
    gate::quiet(|| {
        let veth = VethPair::new();
        // 1.4 s of retransmissions; 0.6 s once the application has closed.
        veth.first.sysctl("net.ipv4.tcp_retries2", "2");
        veth.first.sysctl("net.ipv4.tcp_orphan_retries", "1");
        let route = Route {
            name: "veth IPv4",
            client: &veth.first,
            server: &veth.second,
            address: VethPair::SECOND[0],
        };
        let tracer = Tracer::watch(&ports(&[32_001]));
        let server = route.listen(32_001);
        let [retransmitting, hurried, kept_alive, orphaned] = [(); 4].map(|()| server.connect());
        SockRef::from(&hurried.client)
            .set_tcp_user_timeout(Some(Duration::from_millis(700)))
            .expect("set TCP_USER_TIMEOUT");
        let soon = Duration::from_secs(1);
        let keepalive = TcpKeepalive::new()
            .with_time(soon)
            .with_interval(soon)
            .with_retries(1);
        SockRef::from(&kept_alive.client)
            .set_tcp_keepalive(&keepalive)
            .expect("set SO_KEEPALIVE");

        // From now on the client talks to an address that nobody has.
        veth.first
            .ip("neighbour replace 10.77.0.2 lladdr 02:00:00:00:00:99 dev veth0 nud permanent");
        let orphan = orphaned.client_side;
        drop(orphaned.client);
        let mut held = vec![orphaned.server];
        thread::scope(|scope| {
            for (pair, talks, cause) in [
                (retransmitting, true, "retransmission"),
                (hurried, true, "user_timeout"),
                (kept_alive, false, "keepalive"),
            ] {
                let Pair {
                    mut client,
                    server,
                    client_side,
                    ..
                } = pair;
                held.push(server);
                let tracer = &tracer;
                scope.spawn(move || {
                    if talks {
                        client.write_all(b"anybody?").expect("send");
                    }
                    let given_up = client.read(&mut [0]).expect_err("nobody answers");
                    assert_eq!(given_up.kind(), ErrorKind::TimedOut, "{cause}");
                    let record = tracer.close_of(client_side);
                    assert_eq!(record.verdict(), format!("timed_out/{cause}"));
                    assert_eq!(record.close.errno.as_deref(), Some("ETIMEDOUT"));
                    assert_eq!(record.path().last(), Some(&"ESTABLISHED"));
                });
            }
            let record = tracer.end_of(orphan, SOON);
            assert_eq!(record.verdict(), "timed_out/retransmission");
            assert_eq!(record.path().last(), Some(&"FIN_WAIT1"));
            assert!(record.time_wait.is_none(), "the peer never sent its FIN");
        });

        for server in held {
            reset_on_close(&server);
        }
        tracer.wait_for("the servers' resets", SOON, |lines| {
            let resets = lines
                .verdicts()
                .filter(|record| record.verdict() == "reset_sent/linger_zero");
            (resets.count() == 4).then_some(())
        });
        tracer.stop().assert_clean();
    });
}
