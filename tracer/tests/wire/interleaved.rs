//! Scripts interleaved at random: whatever the kernel does for one connection between two steps of
//! another must change nothing that is told of either.

use std::collections::BTreeMap;
use std::time::Instant;

use fastrand::Rng;

use crate::peer::{Family, Wire};
use crate::run::{self, Play, World};
use crate::script::Script;
use crate::tracer::{self, Tracer};
use crate::{gate, hold_to_records, wanted};

/// How many interleavings.
const ROUNDS: usize = 1_000;
/// How many scripts each interleaves.
const SCRIPTS: std::ops::RangeInclusive<usize> = 2..=8;
/// A number that repeats a run.
const SEED: &str = "WIRE_SEED";

#[test]
fn a_thousand_interleavings_of_the_scripts_change_nothing_that_is_told() {
    let pool: Vec<Script> = wanted().into_iter().filter(Script::is_quick).collect();
    let seed = std::env::var(SEED).ok().map_or_else(
        || fastrand::u64(..),
        |seed| {
            seed.parse()
                .unwrap_or_else(|_| panic!("{SEED}={seed} is no number"))
        },
    );
    gate::quiet(|| {
        if !Wire::is_possible() {
            println!("skipped: this kernel has no TUN devices (/dev/net/tun)");
            return;
        }
        let possible = |script: &&Script| World::lacks(script).is_none();
        let pool: Vec<&Script> = pool.iter().filter(possible).collect();
        println!("{SEED}={seed} repeats this run, of {} scripts", pool.len());
        let began = Instant::now();
        let tracer = Tracer::watch(&tracer::ports(&run::ports()));
        let (world, mut played) = play_interleaved(&pool, &mut Rng::with_seed(seed));
        let took = began.elapsed();
        let count = played.len();
        let (finished, wrong) = hold_to_records(tracer, &mut played);
        drop(world);
        println!(
            "{ROUNDS} interleavings of {count} plays took {took:.1?}, {:.1?} with their records",
            began.elapsed()
        );
        // One of each script shows what is wrong.
        let mut shown: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for (index, why) in &wrong {
            let name = played[*index].0.script.name.as_str();
            shown.entry(name).or_insert((0, why)).0 += 1;
        }
        let shown: Vec<_> = shown
            .values()
            .map(|(plays, why)| format!("{plays} plays: {why}"))
            .collect();
        assert!(
            wrong.is_empty(),
            "{SEED}={seed}: {} of {count} plays are told otherwise than they were:\n{}",
            wrong.len(),
            shown.join("\n"),
        );
        finished.assert_account();
    });
}

fn play_interleaved<'a>(pool: &[&'a Script], random: &mut Rng) -> (World, Vec<(Play<'a>, u32)>) {
    let mut world = World::new(None);
    std::thread::scope(|scope| {
        let player = scope.spawn(move || {
            world.namespace.enter();
            let mut played = Vec::new();
            for _ in 0..ROUNDS {
                // Of its own, so that the clock's part in one round changes nothing in the next.
                let mut random = random.fork();
                let mut turns = random.fork();
                let scripts = random.usize(SCRIPTS);
                let mut plays: Vec<Play<'_>> = (0..scripts)
                    .map(|_| {
                        let script: &'a Script = random.choice(pool).expect("there are scripts");
                        let family = random.choice(&script.families);
                        let family = *family.unwrap_or(&Family::V4);
                        Play::new(script, family, world.host())
                    })
                    .collect();
                world.play(&mut plays, |running| turns.usize(..running));
                let netns = world.namespace.inode;
                played.extend(plays.into_iter().map(|play| (play, netns)));
            }
            (world, played)
        });
        player.join().expect("the scripts are played to their ends")
    })
}
