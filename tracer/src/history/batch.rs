//! Rows turned into columns, as Arrow has them.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, SchemaRef};
use foldhash::fast::RandomState;
use hashbrown::HashMap;

use super::row::Row;
use super::schema::{self, COLUMNS, Line, Values};
use crate::attribution::Group;
use crate::time::{Timestamp, WallOffset};

/// Cgroups whose path is kept taken apart; then all are forgotten, for containers come and go.
const GROUPS: usize = 4_096;

/// Makes batches, and keeps what they share.
#[derive(Debug)]
pub(super) struct Batches {
    schema: SchemaRef,
    boot_id: String,
    groups: HashMap<Box<str>, Group, RandomState>,
}

impl Batches {
    /// Of the host's boot `boot_id`; empty: not known.
    pub fn new(boot_id: &str) -> Self {
        Self {
            schema: schema::schema(),
            boot_id: boot_id.to_owned(),
            groups: HashMap::default(),
        }
    }

    /// What all of them have.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// One batch of all `rows`.
    ///
    /// # Errors
    /// Never, as long as the table of columns is the schema.
    pub fn of(&mut self, rows: &[Row]) -> Result<RecordBatch, ArrowError> {
        self.learn_groups(rows);
        let lines: Vec<_> = rows.iter().map(|row| self.line(row)).collect();
        let mut text = String::new();
        let columns = COLUMNS.iter().map(|it| array(it.values, &lines, &mut text));
        RecordBatch::try_new(Arc::clone(&self.schema), columns.collect())
    }

    fn learn_groups(&mut self, rows: &[Row]) {
        if self.groups.len() >= GROUPS {
            self.groups.clear();
        }
        for path in rows.iter().filter_map(|row| row.cgroup.as_deref()) {
            if !self.groups.contains_key(path) {
                self.groups.insert(path.into(), Group::new(path));
            }
        }
    }

    fn line<'a>(&'a self, row: &'a Row) -> Line<'a> {
        Line {
            row,
            group: row.cgroup.as_ref().and_then(|path| self.groups.get(path)),
            boot_id: &self.boot_id,
        }
    }
}

fn array(values: Values, lines: &[Line<'_>], text: &mut String) -> ArrayRef {
    let number = lines.len();
    match values {
        Values::Word(value) => {
            let mut column = StringBuilder::with_capacity(number, number * 8);
            lines
                .iter()
                .for_each(|line| column.append_option(value(line)));
            Arc::new(column.finish())
        }
        Values::Text(write) => {
            let mut column = StringBuilder::with_capacity(number, number * 16);
            for line in lines {
                text.clear();
                let known = write(line, text);
                column.append_option(known.map(|()| text.as_str()));
            }
            Arc::new(column.finish())
        }
        Values::Id(value) => {
            let mut column = StringBuilder::with_capacity(number, number * 8);
            let mut digits = itoa::Buffer::new();
            for line in lines {
                column.append_option(value(line).map(|id| digits.format(id)));
            }
            Arc::new(column.finish())
        }
        Values::Moment(value) => {
            let mut column = TimestampMicrosecondBuilder::with_capacity(number);
            for line in lines {
                column.append_option(value(line).map(|at| microseconds(at, line.row.wall)));
            }
            Arc::new(column.finish().with_timezone("UTC"))
        }
        Values::Nanoseconds(value) | Values::Long(value) => {
            let signed = |number| i64::try_from(number).unwrap_or(i64::MAX);
            let mut column = Int64Builder::with_capacity(number);
            lines
                .iter()
                .for_each(|line| column.append_option(value(line).map(signed)));
            Arc::new(column.finish())
        }
        Values::Short(value) => {
            let mut column = Int32Builder::with_capacity(number);
            lines
                .iter()
                .for_each(|line| column.append_option(value(line).map(i32::from)));
            Arc::new(column.finish())
        }
        Values::Truth(value) => {
            let mut column = BooleanBuilder::with_capacity(number);
            lines
                .iter()
                .for_each(|line| column.append_option(value(line)));
            Arc::new(column.finish())
        }
    }
}

fn microseconds(at: Timestamp, wall: WallOffset) -> i64 {
    let microseconds = wall.unix_nanoseconds(at).div_euclid(1_000);
    i64::try_from(microseconds).unwrap_or(i64::MAX)
}
