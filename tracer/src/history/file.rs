//! One file, from its first row to its last.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use jiff::civil::Date;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use rustix::fs::FlockOperation;

use super::Settings;
use super::place::Place;
use super::schema::{self, COLUMNS, Values};
use crate::time::Timestamp;

/// Rows of a row group, and the bytes of it that wait in memory: whichever is reached first.
const GROUP_ROWS: usize = 64 << 10;
const GROUP_MEMORY: usize = 16 << 20;
/// Rows of a page: every column keeps one in memory, and what compresses it grows with it.
const PAGE_ROWS: usize = 8 << 10;

/// A step failed, on a file or directory.
#[derive(Debug, thiserror::Error)]
#[error("failed to {} {}", operation.name(), path.display())]
pub(super) struct FileError {
    /// What was tried.
    pub operation: Operation,
    /// On what.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

/// What is done with files and directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// A directory is made.
    MakeDirectory,
    /// A file is made.
    Create,
    /// Rows are written.
    Write,
    /// What was written is brought to the disk.
    Sync,
    /// A whole file takes its name.
    Rename,
    /// A directory is read.
    List,
    /// An old file goes.
    Remove,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::MakeDirectory => "make directory",
            Self::Create => "create",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
            Self::List => "list",
            Self::Remove => "remove",
        }
    }

    /// Gives an error its place.
    pub(super) fn on(self, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError {
            operation: self,
            path: path.to_owned(),
            source,
        }
    }
}

/// A file under way. Nobody sees it before [`Self::finish`].
pub(super) struct Open {
    /// The day of all its rows.
    pub date: Date,
    /// When it was begun.
    pub began_at: Timestamp,
    /// Rows in it.
    pub rows: u64,
    place: Place,
    writer: ArrowWriter<File>,
}

impl Open {
    /// Begins a file, and makes its directories.
    pub fn create(
        place: Place,
        date: Date,
        now: Timestamp,
        schema: SchemaRef,
        properties: WriterProperties,
    ) -> Result<Self, FileError> {
        fs::create_dir_all(&place.directory)
            .map_err(Operation::MakeDirectory.on(&place.directory))?;
        let create = Operation::Create;
        let file = File::create_new(&place.unfinished).map_err(create.on(&place.unfinished))?;
        // As long as it is held the file is no left-over. Where there are no locks, it looks like
        // one to a process that starts, which is the lesser evil.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(file, schema, options)
            .map_err(io_error)
            .map_err(create.on(&place.unfinished))?;
        Ok(Self {
            date,
            began_at: now,
            rows: 0,
            place,
            writer,
        })
    }

    /// Appends rows.
    pub fn put(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        self.writer
            .write(batch)
            .and_then(|()| match self.writer.memory_size() > GROUP_MEMORY {
                true => self.writer.flush(),
                false => Ok(()),
            })
            .map_err(io_error)
            .map_err(Operation::Write.on(&self.place.unfinished))?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// Rows that are no batch.
    pub fn refused(&self, error: ArrowError) -> FileError {
        Operation::Write.on(&self.place.unfinished)(io::Error::other(error))
    }

    /// Bytes of the file so far, those in memory as estimated.
    pub fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Makes the file whole, on the disk under its name, and gives its bytes and its directory, which
    /// [`sync_names`] is for. Where that fails there is no file.
    pub fn finish(self) -> Result<(u64, PathBuf), FileError> {
        let Self { writer, place, .. } = self;
        match whole(writer, &place) {
            Ok(bytes) => Ok((bytes, place.directory)),
            Err(error) => {
                let _ = fs::remove_file(&place.unfinished);
                Err(error)
            }
        }
    }

    /// Gives it up.
    pub fn abandon(self) {
        // It would be passed over all the same, and removed by the next process.
        let _ = fs::remove_file(&self.place.unfinished);
    }
}

fn whole(writer: ArrowWriter<File>, place: &Place) -> Result<u64, FileError> {
    let Place {
        path, unfinished, ..
    } = place;
    let file = writer
        .into_inner()
        .map_err(io_error)
        .map_err(Operation::Write.on(unfinished))?;
    file.sync_all().map_err(Operation::Sync.on(unfinished))?;
    let bytes = file.metadata().map_or(0, |file| file.len());
    fs::rename(unfinished, path).map_err(Operation::Rename.on(unfinished))?;
    Ok(bytes)
}

/// Brings the new name in a host's `directory` to the disk, and those of the directories that may
/// be new: the host's, the date's.
pub(super) fn sync_names(directory: &Path) -> Result<(), FileError> {
    for directory in directory.ancestors().take(3) {
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Operation::Sync.on(directory))?;
    }
    Ok(())
}

/// How files are written: by what DuckDB, ClickHouse and Spark all read.
pub(super) fn properties(settings: &Settings) -> WriterProperties {
    let entry = |key: &str, value: &str| KeyValue::new(format!("tracer.{key}"), value.to_owned());
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("tracer version ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_key_value_metadata(Some(vec![
            entry("schema", &schema::VERSION.to_string()),
            entry("version", env!("CARGO_PKG_VERSION")),
            entry("host", &settings.host),
            entry("boot_id", &settings.boot_id),
        ]))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    for column in &COLUMNS {
        let path = ColumnPath::from(column.name);
        properties = match column.values {
            Values::Moment(_) => properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED),
            Values::Id(_) | Values::Nanoseconds(_) => {
                properties.set_column_dictionary_enabled(path, false)
            }
            _ => properties,
        };
    }
    properties.build()
}

fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}
