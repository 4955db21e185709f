//! The scenes.

use clap::Subcommand;
use serde_json::json;

use crate::stage::{Actor, Stage, conduct, say};

/// A scene.
#[derive(Clone, Debug, Subcommand)]
pub enum Scene {
    /// connect() fails for want of a port: its ports wait in TIME_WAIT.
    Exhaustion {
        /// How many ports the client has.
        #[arg(long, default_value_t = 1000)]
        ports: u16,
        /// Attempts a second once they are used up.
        #[arg(long, default_value_t = 100)]
        rate: u64,
    },
    /// Ports fill up at a rate: nothing has failed yet.
    Filling {
        /// How many ports the client has.
        #[arg(long, default_value_t = 1000)]
        ports: u16,
        /// Connections a second.
        #[arg(long, default_value_t = 50)]
        rate: u64,
        /// By how much that grows each second.
        #[arg(long, default_value_t = 0)]
        growth: u64,
    },
    /// Ports are held for a while by each connection, and as many come free as are taken.
    Steady {
        /// How many ports the client has.
        #[arg(long, default_value_t = 150)]
        ports: u16,
        /// Connections a second.
        #[arg(long, default_value_t = 40)]
        rate: u64,
        /// How long each is kept, milliseconds.
        #[arg(long, default_value_t = 2000)]
        keep: u64,
    },
    /// A server never closes what its peers have closed.
    CloseWait {
        /// How many it has kept when the scene is set.
        #[arg(long, default_value_t = 60)]
        first: u64,
        /// How many more each second.
        #[arg(long, default_value_t = 10)]
        rate: u64,
    },
    /// Much traffic, nothing wrong.
    Healthy {
        /// Connections a second; 0: as fast as can be.
        #[arg(long, default_value_t = 500)]
        rate: u64,
    },
    /// connect() fails beside many TIME_WAITs, which are not the reason.
    Refused {
        /// How many TIME_WAITs there are.
        #[arg(long, default_value_t = 400)]
        first: u64,
        /// Attempts a second.
        #[arg(long, default_value_t = 50)]
        rate: u64,
    },
    /// Six programs, of which one has used up its ports.
    Crowd {
        /// Ports of that one.
        #[arg(long, default_value_t = 20_000)]
        ports: u16,
        /// Connections of each of the others.
        #[arg(long, default_value_t = 16_000)]
        others: u64,
    },
}

const SERVER: &str = "10.77.0.2";

/// Plays `scene` until stdin ends.
pub fn play(scene: &Scene) {
    match *scene {
        Scene::Exhaustion { ports, rate } => exhaustion(ports, rate),
        Scene::Filling {
            ports,
            rate,
            growth,
        } => filling(ports, rate, growth),
        Scene::Steady { ports, rate, keep } => steady(ports, rate, keep),
        Scene::CloseWait { first, rate } => close_wait(first, rate),
        Scene::Healthy { rate } => healthy(rate),
        Scene::Refused { first, rate } => refused(first, rate),
        Scene::Crowd { ports, others } => crowd(ports, others),
    }
}

fn server(stage: &Stage, name: &str, port: u16, close: &str) -> Actor {
    let words = format!("--listen 0.0.0.0:{port} --close {close}");
    let mut server = Actor::start(&stage.pair.second, name, &words);
    server.hear("ready");
    server
}

fn exhaustion(ports: u16, rate: u64) {
    let stage = Stage::new(Some(ports));
    let database = server(&stage, "database", 3306, "last");
    let words = format!("--connect {SERVER}:3306 --close first --rate {rate}");
    let mut checkout = Actor::start(&stage.pair.first, "checkout", &words);
    let done = checkout.hear("ready");
    say(
        "ready",
        json!({
            "netns": stage.pair.first.inode,
            "client": checkout.pid(),
            "server": database.pid(),
            "destination": format!("{SERVER}:3306"),
            "capacity": ports,
            "done": done,
        }),
    );
    conduct(&mut [("checkout", &mut checkout)]);
}

fn filling(ports: u16, rate: u64, growth: u64) {
    let stage = Stage::new(Some(ports));
    let _database = server(&stage, "database", 3306, "last");
    let words =
        format!("--connect {SERVER}:3306 --close first --first 0 --rate {rate} --growth {growth}");
    let mut checkout = Actor::start(&stage.pair.first, "checkout", &words);
    checkout.hear("ready");
    say(
        "ready",
        json!({
            "netns": stage.pair.first.inode,
            "client": checkout.pid(),
            "destination": format!("{SERVER}:3306"),
            "capacity": ports,
        }),
    );
    conduct(&mut [("checkout", &mut checkout)]);
}

fn steady(ports: u16, rate: u64, keep: u64) {
    let stage = Stage::new(Some(ports));
    // It closes first: no TIME_WAIT is the client's.
    let _cache = server(&stage, "cache", 6379, "first");
    let words =
        format!("--connect {SERVER}:6379 --close last --first 0 --rate {rate} --keep {keep}");
    let mut checkout = Actor::start(&stage.pair.first, "checkout", &words);
    checkout.hear("ready");
    say(
        "ready",
        json!({
            "netns": stage.pair.first.inode,
            "client": checkout.pid(),
            "destination": format!("{SERVER}:6379"),
            "capacity": ports,
        }),
    );
    conduct(&mut [("checkout", &mut checkout)]);
}

fn close_wait(first: u64, rate: u64) {
    let stage = Stage::new(None);
    let reports = server(&stage, "reports", 8080, "never");
    let words = format!("--connect {SERVER}:8080 --close first --first {first} --rate {rate}");
    let mut browser = Actor::start(&stage.pair.first, "browser", &words);
    browser.hear("ready");
    say(
        "ready",
        json!({
            "netns": stage.pair.second.inode,
            "client": browser.pid(),
            "server": reports.pid(),
            "destination": format!("{SERVER}:8080"),
        }),
    );
    conduct(&mut [("browser", &mut browser)]);
}

fn healthy(rate: u64) {
    let stage = Stage::new(None);
    let _web = server(&stage, "web", 80, "first");
    let words = format!("--connect {SERVER}:80 --close last --first 0 --rate {rate}");
    let mut checkout = Actor::start(&stage.pair.first, "checkout", &words);
    checkout.hear("ready");
    say(
        "ready",
        json!({ "netns": stage.pair.first.inode, "client": checkout.pid() }),
    );
    conduct(&mut [("checkout", &mut checkout)]);
}

fn refused(first: u64, rate: u64) {
    let stage = Stage::new(Some(1000));
    let database = server(&stage, "database", 3306, "last");
    let words = format!("--connect {SERVER}:3306 --close first --first {first} --rate {rate}");
    let mut checkout = Actor::start(&stage.pair.first, "checkout", &words);
    let done = checkout.hear("ready");
    database.end();
    say(
        "ready",
        json!({
            "netns": stage.pair.first.inode,
            "client": checkout.pid(),
            "destination": format!("{SERVER}:3306"),
            "capacity": 1000,
            "done": done,
        }),
    );
    conduct(&mut [("checkout", &mut checkout)]);
}

fn crowd(ports: u16, others: u64) {
    let stage = Stage::new(Some(ports));
    let names = ["checkout", "search", "mail", "images", "login"];
    let mut actors = Vec::new();
    let mut servers = vec![server(&stage, "ledger", 5000, "last")];
    for (port, name) in (5001..).zip(names) {
        servers.push(server(&stage, "backend", port, "first"));
        let words = format!("--connect {SERVER}:{port} --close last --first {others} --rate 40");
        actors.push((name, Actor::start(&stage.pair.first, name, &words)));
    }
    let words = format!("--connect {SERVER}:5000 --close first --rate 100");
    let billing = Actor::start(&stage.pair.first, "billing", &words);
    let pid = billing.pid();
    actors.push(("billing", billing));
    let mut actors: Vec<(&str, &mut Actor)> = actors
        .iter_mut()
        .map(|(name, actor)| (*name, actor))
        .collect();
    let done = actors.iter_mut().map(|(name, actor)| {
        let tally = actor.hear("ready");
        ((*name).to_owned(), tally)
    });
    let done: serde_json::Map<_, _> = done.collect();
    say(
        "ready",
        json!({
            "netns": stage.pair.first.inode,
            "client": pid,
            "destination": format!("{SERVER}:5000"),
            "capacity": ports,
            "done": done,
        }),
    );
    conduct(&mut actors);
}
