use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::files::{Files, PAUSE};
use super::samples::{WALL, at, blank, whole};
use super::*;
use crate::time::Timestamp;

const DAY_1: &str = "date=2026-11-20/host=web%2F1";
const DAY_2: &str = "date=2026-11-21/host=web%2F1";

fn settings(directory: &TempDir) -> Settings {
    let directory = directory.path().join("history");
    Settings::new(directory, "web/1", "5f0c-77")
}

fn files(settings: &Settings, now: Timestamp) -> Files {
    Files::new(Arc::new(settings.clone()), now, WALL)
}

/// Every file below, sorted.
fn listed(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => left.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// Those that an engine reads with `**/*.parquet`.
fn visible(directory: &Path) -> Vec<PathBuf> {
    let mut found = listed(directory);
    found.retain(|file| file.extension().is_some_and(|end| end == "parquet"));
    found
}

fn read(file: &Path) -> (HashMap<String, String>, Vec<RecordBatch>) {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(file).unwrap()).unwrap();
    let metadata = reader.metadata().file_metadata().key_value_metadata();
    let metadata = metadata.unwrap().iter();
    let metadata = metadata.map(|entry| (entry.key.clone(), entry.value.clone().unwrap()));
    let metadata = metadata.collect();
    let batches = reader.build().unwrap().map(Result::unwrap).collect();
    (metadata, batches)
}

fn rows_of(file: &Path) -> usize {
    read(file).1.iter().map(RecordBatch::num_rows).sum()
}

/// A value as text; `None`: null.
fn value(batch: &RecordBatch, name: &str, row: usize) -> Option<String> {
    let column = batch.column_by_name(name).expect(name);
    if column.is_null(row) {
        return None;
    }
    Some(match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(zone)) if &**zone == "UTC" => {
            let column = column.as_primitive::<TimestampMicrosecondType>();
            let moment = jiff::Timestamp::from_microsecond(column.value(row));
            moment.unwrap().to_string()
        }
        other => panic!("{name} is {other}"),
    })
}

#[test]
fn what_is_written_is_read_back_and_what_is_not_known_is_null() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut files = files(&settings, at(0));
    files.write(&[whole(1_000), blank(1_001)], at(1_000), WALL);
    files.finish_all(at(1_000));

    let visible = visible(&settings.directory);
    let name = "tracer-5f0c77-ba43d2b3d5-000001.parquet";
    let name = name.replace("ba43d2b3d5", &format!("{:x}", at(0).0));
    assert_eq!(visible, [settings.directory.join(DAY_1).join(name)]);
    let (metadata, batches) = read(&visible[0]);
    assert_eq!(metadata["tracer.host"], "web/1");
    assert_eq!(metadata["tracer.boot_id"], "5f0c-77");
    assert_eq!(metadata["tracer.schema"], VERSION.to_string());
    assert_eq!(metadata["tracer.version"], env!("CARGO_PKG_VERSION"));

    let row = |row| {
        let batch = &batches[0];
        let shown = COLUMNS.iter().map(|column| {
            let value = value(batch, column.name, row);
            format!("{}: {}\n", column.name, value.as_deref().unwrap_or("NULL"))
        });
        shown.collect::<String>()
    };
    insta::assert_snapshot!("whole", row(0));
    insta::assert_snapshot!("blank", row(1));
}

#[test]
fn every_column_has_a_meaning_and_a_name_of_its_own() {
    let mut names: Vec<_> = COLUMNS.iter().map(|column| column.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), COLUMNS.len());
    for column in COLUMNS {
        assert!(column.meaning.ends_with('.'), "{}", column.name);
        // They are in the path.
        assert!(!["host", "date"].contains(&column.name));
    }
}

#[test]
fn a_file_ends_when_it_has_its_bytes() {
    let directory = TempDir::new().unwrap();
    let settings = Settings {
        roll_bytes: 100_000,
        ..settings(&directory)
    };
    let mut files = files(&settings, at(0));
    let rows: Vec<_> = (0..500).map(whole).collect();
    for _ in 0..200 {
        files.write(&rows, at(1_000), WALL);
    }
    files.finish_all(at(1_000));
    let visible = visible(&settings.directory);
    assert!(visible.len() > 2, "{visible:?}");
    let sizes = visible.iter().map(|file| fs::metadata(file).unwrap().len());
    assert!(sizes.clone().max() < Some(200_000), "{sizes:?}");
    assert_eq!(files.stats().bytes, sizes.sum::<u64>());
    assert_eq!(
        visible.iter().map(|file| rows_of(file)).sum::<usize>(),
        100_000
    );
    assert_eq!(files.stats().rows_written, 100_000);
}

#[test]
fn a_file_ends_when_it_is_old_though_no_rows_come() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut files = files(&settings, at(0));
    files.write(&[whole(1_000)], at(1_000), WALL);
    assert_eq!(files.timeout(at(1_000)), settings.roll_after);
    files.handle_timeout(at(300_999), WALL);
    assert_eq!(visible(&settings.directory), Vec::<PathBuf>::new());
    assert_eq!((files.stats().rows_waiting, files.stats().files), (1, 0));
    files.handle_timeout(at(301_000), WALL);
    assert_eq!(visible(&settings.directory).len(), 1);
    assert_eq!((files.stats().rows_waiting, files.stats().files), (0, 1));
}

#[test]
fn a_file_has_rows_of_one_day_though_two_days_come_mixed() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut files = files(&settings, at(0));
    // Midnight is at 120 s.
    let rows = [119_999, 120_000, 119_998, 120_001, 120_002].map(whole);
    files.write(&rows, at(120_002), WALL);
    files.write(&rows, at(120_003), WALL);
    files.finish_all(at(120_004));
    let visible = visible(&settings.directory);
    assert_eq!(visible.len(), 2);
    for (file, (day, rows)) in visible.iter().zip([(DAY_1, 4), (DAY_2, 6)]) {
        assert!(file.starts_with(settings.directory.join(day)));
        assert_eq!(rows_of(file), rows);
    }
    // A third day leaves two.
    let mut files = self::files(&settings, at(200_000));
    let rows = [1_000, 121_000, 86_521_000].map(whole);
    files.write(&rows, at(200_000), WALL);
    assert_eq!((files.stats().rows_waiting, files.stats().files), (2, 1));
}

#[test]
fn a_file_under_way_is_invisible_and_the_next_process_removes_it() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut killed = files(&settings, at(0));
    killed.write(&[whole(1_000)], at(1_000), WALL);
    let under_way = listed(&settings.directory);
    assert_eq!(under_way.len(), 1);
    assert_eq!(visible(&settings.directory), Vec::<PathBuf>::new());
    let foreign = settings.directory.join(DAY_1).join(".other.parquet.tmp");
    fs::write(&foreign, "not ours").unwrap();

    // It is held by a process that runs.
    let _ = files(&settings, at(2_000));
    assert!(under_way[0].exists());
    drop(killed);
    let _ = files(&settings, at(3_000));
    assert_eq!(listed(&settings.directory), [foreign]);
}

#[test]
fn old_files_go_and_then_the_oldest_that_are_too_many() {
    let directory = TempDir::new().unwrap();
    let mut settings = settings(&directory);
    let mut files = files(&settings, at(0));
    for milliseconds in [1_000, 121_000, 122_000] {
        files.write(&[whole(milliseconds)], at(milliseconds), WALL);
        files.finish_all(at(milliseconds));
    }
    let whole_files = visible(&settings.directory);
    assert_eq!(whole_files.len(), 3);
    let foreign = settings.directory.join(DAY_2).join("notes.parquet");
    fs::write(&foreign, "not ours").unwrap();
    // When they were finished, days before the last.
    let day = 86_400_000;
    let now = |days: u64| at(days * day);
    for (file, age) in whole_files.iter().zip([10, 6, 5]) {
        let finished = WALL.unix_nanoseconds(now(20)) / 1_000_000_000 - age * 86_400;
        let finished = Duration::from_secs(finished.try_into().unwrap());
        let file = File::options().write(true).open(file).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + finished).unwrap();
    }
    let bytes = fs::metadata(&whole_files[2]).unwrap().len();

    settings.keep = Duration::from_secs(9 * 86_400);
    let files = self::files(&settings, now(20));
    assert_eq!(files.stats().files_removed, 1);
    assert_eq!(visible(&settings.directory).len(), 3);
    assert!(!settings.directory.join("date=2026-11-20").exists());

    settings.keep_bytes = bytes + 1;
    let files = self::files(&settings, now(20));
    assert_eq!(files.stats().files_removed, 1);
    assert_eq!(
        visible(&settings.directory),
        [foreign, whole_files[2].clone()]
    );
}

#[test]
fn a_directory_that_fails_is_counted_and_tried_again_after_a_pause() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut files = files(&settings, at(0));
    fs::write(&settings.directory, "a file stands there").unwrap();
    let two = || [whole(1_000), whole(1_001)];
    files.write(&two(), at(1_000), WALL);
    files.write(&two(), at(2_000), WALL);
    let stats = files.stats();
    assert_eq!((stats.rows_dropped, stats.errors), (4, 1));
    let error = stats.last_error.unwrap();
    assert!(error.starts_with("failed to make directory"), "{error}");

    fs::remove_file(&settings.directory).unwrap();
    let later = at(1_000) + PAUSE;
    files.write(&two(), later, WALL);
    files.finish_all(later);
    let stats = files.stats();
    assert_eq!((stats.rows_dropped, stats.rows_written), (4, 2));
}

#[test]
fn rows_of_a_file_that_cannot_take_its_name_are_dropped_and_counted() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut files = files(&settings, at(0));
    files.write(&[whole(1_000)], at(1_000), WALL);
    fs::remove_dir_all(&settings.directory).unwrap();
    files.finish_all(at(2_000));
    let stats = files.stats();
    assert_eq!((stats.rows_written, stats.files), (0, 0));
    assert_eq!((stats.rows_dropped, stats.rows_waiting), (1, 0));
    assert_eq!(stats.errors, 1);
}

/// Waits for what a thread does at once.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come");
}

#[test]
fn all_that_was_offered_is_written_when_it_is_closed() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut history = History::start(settings.clone()).unwrap();
    (0..1_000).map(whole).for_each(|row| history.offer(row));
    history.tick();
    history.offer(whole(1_000));
    let stats = history.close();
    assert_eq!((stats.rows_written, stats.rows_dropped), (1_001, 0));
    assert_eq!((stats.rows_waiting, stats.files), (0, 1));
    assert_eq!(rows_of(&visible(&settings.directory)[0]), 1_001);
}

#[test]
fn what_was_gathered_is_handed_over_by_a_tick() {
    let directory = TempDir::new().unwrap();
    let settings = settings(&directory);
    let mut history = History::start(settings.clone()).unwrap();
    history.offer(whole(1_000));
    wait_until(|| settings.directory.exists());
    assert_eq!(listed(&settings.directory), Vec::<PathBuf>::new());
    history.tick();
    wait_until(|| listed(&settings.directory).len() == 1);
    assert_eq!(history.stats().rows_waiting, 1);
}
