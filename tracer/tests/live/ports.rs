//! `tracer ports`, held against sock_diag and against how many connects succeeded.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use serde_json::Value;

use crate::drivers::Route;
use crate::gate;
use crate::namespace::VethPair;
use crate::sock_diag::{Holder, SockDiag, TIME_WAIT};
use crate::tracer::BINARY;

/// `ip_local_port_range` of the client's namespace,
const RANGE: std::ops::RangeInclusive<u16> = 40_000..=40_499;
/// what of it is reserved,
const RESERVED: [std::ops::RangeInclusive<u16>; 2] = [40_010..=40_019, 40_300..=40_300];
/// and a port of it that something listens on.
const LISTENED: u16 = 40_100;
const DESTINATION: u16 = 26_001;

/// What `tracer ports` says with these words.
fn ports(words: &str) -> Value {
    let output = Command::new(BINARY)
        .args(["ports", "--json"])
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .expect("run the tracer");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn the_capacity_is_how_many_connects_succeed() {
    gate::quiet(|| {
        let veth = VethPair::new();
        let client = &veth.first;
        let _mounted = client.mount();
        client.sysctl("net.ipv4.ip_local_port_range", "40000 40499");
        client.sysctl("net.ipv4.ip_local_reserved_ports", "40010-40019,40300");
        client.sysctl("net.ipv4.tcp_tw_reuse", "0");
        let listener = client.run(|| TcpListener::bind(("0.0.0.0", LISTENED)));
        let _listener = listener.expect("listen within the range");
        let route = Route {
            name: "veth",
            client,
            server: &veth.second,
            address: VethPair::SECOND[0],
        };
        let server = route.listen(DESTINATION);
        let capacity = 500 - 11 - 1;
        let filter = format!("--netns {} --port {DESTINATION}", client.inode);

        let half = capacity / 2;
        for _ in 0..half {
            server.connect().close_client_first();
        }
        assert_holds(&ports(&filter), client.inode, half, capacity);

        for _ in half..capacity {
            server.connect().close_client_first();
        }
        let destination = SocketAddr::new(VethPair::SECOND[0], DESTINATION);
        let refused = client.run(|| std::net::TcpStream::connect(destination));
        let refused = refused.expect_err("no port is left");
        let errno = refused.raw_os_error();
        assert_eq!(errno, Some(Errno::ADDRNOTAVAIL.raw_os_error()));

        let said = ports(&filter);
        assert_holds(&said, client.inode, capacity, capacity);
        let namespace = &said["namespaces"][0];
        assert_eq!(namespace["reserved"], 11);
        assert_eq!(namespace["bound"], serde_json::json!([LISTENED]));
        assert_eq!(namespace["tcp_tw_reuse"], 0);
        let last = &said["routes"][0]["time_wait_ends"]["last_in_ns"];
        let last = last.as_u64().expect("they have timers");
        assert!((40_000_000_000..=60_100_000_000).contains(&last), "{last}");

        // Port by port, as sock_diag has it.
        let diag = SockDiag::new(client);
        for port in RANGE {
            let local = SocketAddr::new(VethPair::FIRST[0], port);
            let is_reserved = RESERVED.iter().any(|span| span.contains(&port));
            let expected = match is_reserved || port == LISTENED {
                true => Holder::Nobody,
                false => TIME_WAIT,
            };
            assert_eq!(diag.holder(local, destination), expected, "{port}");
        }
        // Another destination has all of them.
        let other = route.listen(DESTINATION + 1);
        let open: Vec<_> = (0..3).map(|_| other.connect()).collect();
        let said = ports(&format!(
            "--netns {} --port {}",
            client.inode,
            DESTINATION + 1
        ));
        let row = &said["routes"][0];
        assert_eq!(
            (&row["used"], &row["capacity"]),
            (&3.into(), &capacity.into())
        );
        assert_eq!(row["by_use"]["established"], 3);
        drop(open);
    });
}

/// One route, of which so many TIME_WAITs hold so many ports.
fn assert_holds(said: &Value, netns: u32, used: u64, capacity: u64) {
    assert_eq!(said["type"], "ports");
    let routes = said["routes"].as_array().expect("routes");
    let [row] = &routes[..] else {
        panic!("not one route: {said}");
    };
    assert_eq!(row["netns"], netns);
    assert_eq!(row["source"], VethPair::FIRST[0].to_string());
    assert_eq!(
        row["destination"]["address"],
        VethPair::SECOND[0].to_string()
    );
    assert_eq!(row["destination"]["port"], DESTINATION);
    assert_eq!(
        (&row["used"], &row["capacity"]),
        (&used.into(), &capacity.into()),
        "{said}"
    );
    assert_eq!(row["by_use"]["time_wait"], used);
}
