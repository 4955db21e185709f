use std::net::{IpAddr, Ipv4Addr};

use tracer_common::tcp::Flow;

use super::*;
use crate::record::holding::Use;
use crate::stream::{Ownership, Settings};

const DATABASE: (u8, u16) = (9, 3_306);

fn endpoint((host, port): (u8, u16)) -> Endpoint {
    Endpoint {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)),
        port,
    }
}

fn found(cookie: u64, local: (u8, u16), peer: (u8, u16), holder: Holder) -> Found {
    let mut flow = Flow {
        local: endpoint(local),
        peer: endpoint(peer),
    };
    if peer.1 == 0 {
        flow.local.address = Ipv4Addr::UNSPECIFIED.into();
        flow.peer.address = Ipv4Addr::UNSPECIFIED.into();
    }
    Found {
        cookie,
        flow,
        socket_is_v6: false,
        holder,
    }
}

fn waits(ends_at: u64) -> Holder {
    Holder::Minisocket {
        substate: TcpState::TimeWait,
        ends_at: Timestamp(ends_at),
    }
}

fn inventory(found: Vec<Found>, owners: Vec<Ownership>) -> Inventory {
    Inventory {
        netns: 7,
        netns_cookie: 70,
        from: Timestamp(1_000_000_000),
        until: Timestamp(1_100_000_000),
        whole: true,
        found,
        owners,
    }
}

fn reading() -> NamespaceReading {
    NamespaceReading {
        netns: 7,
        netns_cookie: 70,
        settings: Settings {
            port_range: Some((40_000, 40_009)),
            reserved_ports: vec![(40_009, 40_009)],
            ..Settings::default()
        },
        ..NamespaceReading::default()
    }
}

fn owner(cookie: u64, pid: u32) -> Ownership {
    Ownership {
        cookie,
        pid,
        name: *b"php-fpm\0\0\0\0\0\0\0\0\0",
        reuse_address: None,
    }
}

/// A client's host: a listener within the range, and what it serves there.
fn client() -> Inventory {
    let established = Holder::socket(TcpState::Established, Some(33));
    inventory(
        vec![
            found(
                1,
                (5, 40_001),
                (0, 0),
                Holder::socket(TcpState::Listen, Some(0)),
            ),
            found(2, (5, 40_001), (8, 50_000), established),
            found(3, (5, 40_002), DATABASE, established),
            found(4, (5, 40_003), DATABASE, waits(30_000_000_000)),
            found(5, (5, 40_004), DATABASE, waits(60_000_000_000)),
            found(6, (6, 40_004), DATABASE, waits(50_000_000_000)),
            // Bound by the client: it lies outside.
            found(7, (5, 700), DATABASE, established),
        ],
        vec![owner(3, 813), owner(7, 812)],
    )
}

#[test]
fn a_route_says_who_holds_how_many_of_how_many() {
    let report = report(
        &[client()],
        &[reading()],
        &BTreeMap::new(),
        &Filter::default(),
    );
    let [first, second] = &report.routes[..] else {
        panic!("not two routes: {report:?}");
    };
    assert_eq!(first.source, endpoint((5, 0)).address);
    assert_eq!(first.destination, endpoint(DATABASE));
    // Of ten ports one is reserved and one listened on.
    assert_eq!((first.used, first.capacity), (3, Some(8)));
    assert_eq!(first.counts.of(Use::TimeWait), 2);
    assert_eq!(first.counts.of(Use::Established), 2);
    assert_eq!(first.next_end, Some(Timestamp(30_000_000_000)));
    assert_eq!(first.last_end, Some(Timestamp(60_000_000_000)));
    let [program] = &first.programs[..] else {
        panic!("not one program: {first:?}");
    };
    assert_eq!((program.pid, program.held, first.inferred), (812, 2, true));
    // It has no descriptor on the other route, but to the same destination.
    assert_eq!((second.used, second.programs[0].held), (1, 0));
    assert!(second.inferred);
    let space = report.namespaces[0].space.as_ref().expect("it was read");
    assert_eq!(space.bound, [40_001]);
}

#[test]
fn filters_choose_routes_and_change_no_count() {
    let shown = |filter: &Filter| {
        let report = report(&[client()], &[reading()], &BTreeMap::new(), filter);
        let used: Vec<u64> = report.routes.iter().map(|route| route.used).collect();
        (used, report.namespaces.len())
    };
    let of_ports = |ports: &[u16]| Filter {
        ports: ports.to_vec(),
        ..Filter::default()
    };
    assert_eq!(shown(&of_ports(&[3_306])), (vec![3, 1], 1));
    assert_eq!(shown(&of_ports(&[40_003])), (vec![3], 1));
    assert_eq!(shown(&of_ports(&[80])), (vec![], 0));
    let of_netns = |netns| Filter {
        netns: vec![netns],
        ..Filter::default()
    };
    assert_eq!(shown(&of_netns(7)), (vec![3, 1], 1));
    assert_eq!(shown(&of_netns(8)), (vec![], 0));
    let local = Filter {
        local: vec!["10.0.0.6".parse().expect("an address")],
        ..Filter::default()
    };
    assert_eq!(shown(&local), (vec![1], 1));
}

#[test]
fn where_the_settings_were_not_read_there_is_no_capacity() {
    let names = BTreeMap::from([(7, "web".to_owned())]);
    let report = report(&[client()], &[], &names, &Filter::default());
    assert_eq!(
        (report.routes[0].used, report.routes[0].capacity),
        (4, None)
    );
    assert_eq!(report.routes[0].netns_name.as_deref(), Some("web"));
    assert!(report.namespaces[0].space.is_none());
}
