//! Multipath TCP: one TCP connection a path, beneath a socket of another protocol, which tells of
//! its own states too.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;

use socket2::{Domain, Protocol, Socket, Type};

use crate::gate;
use crate::namespace::Namespace;
use crate::tracer::{SOON, Tracer, netns};

#[test]
fn a_path_of_multipath_tcp_is_told_as_a_connection_and_the_whole_is_not() {
    gate::quiet(|| {
        if !Path::new("/proc/sys/net/mptcp/enabled").exists() {
            println!("skipped: this kernel has no MPTCP");
            return;
        }
        let lone = Namespace::new();
        let tracer = Tracer::watch(&netns(&lone));
        let before = lone.counters();
        let address = SocketAddr::from(([127, 0, 0, 1], 17_100));
        lone.run(|| {
            let make = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
            let listener = make().expect("make a socket");
            listener.bind(&address.into()).expect("bind");
            listener.listen(1).expect("listen");
            let mut client = make().expect("make a socket");
            client.connect(&address.into()).expect("connect");
            let (mut server, _) = listener.accept().expect("accept");
            client.write_all(b"hello").expect("send");
            server.read_exact(&mut [0; 5]).expect("receive");
            drop(client);
            assert_eq!(server.read(&mut [0]).expect("the stream's end"), 0);
        });

        let verdict_of = |role: &str| {
            tracer.wait_for(&format!("the verdict on the {role}"), SOON, |lines| {
                let mut verdicts = lines.verdicts().filter(|record| record.role == role);
                verdicts.next().cloned()
            })
        };
        let [client, server] = ["client", "server"].map(verdict_of);
        assert_eq!(verdict_of("listener").verdict(), "listener_closed");
        // The kernel closes the paths behind the application's back: which end is first is its choice.
        let kinds = (client.close.kind.as_str(), server.close.kind.as_str());
        let agreed = [
            ("active", "passive"),
            ("passive", "active"),
            ("simultaneous", "simultaneous"),
        ];
        assert!(agreed.contains(&kinds), "{client:#?} {server:#?}");
        let after = lone.counters();
        let made = after.since(&before, "TW") + after.since(&before, "TWKilled");
        let finished = tracer.stop();
        let told = finished.lines.verdicts().filter(|it| it.has_minisocket());
        assert_eq!(told.count(), usize::try_from(made).expect("a count"));
        assert_eq!(
            finished.lines.closes.len(),
            3,
            "{}",
            finished.lines.describe()
        );
        finished.assert_clean();
    });
}
