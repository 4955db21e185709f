//! Columns that share the width of a terminal.
//!
//! Each column starts at a usual width and grows, while there is room, to what it was given to
//! show; in a narrow terminal columns shrink, then go, the least telling first. Elsewhere than on a
//! terminal nothing is cut.

use std::borrow::Cow;

use anstyle::Style;

use super::text::{cut_end, cut_middle, width};

/// What a column is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    title: &'static str,
    /// In a narrow terminal the column of the lowest rank goes first.
    rank: u8,
    least: usize,
    usual: usize,
    most: usize,
    is_right_aligned: bool,
    is_cut_in_the_middle: bool,
    is_whole: bool,
}

impl Column {
    /// A column and its least width, the one to start with, and the one that it may grow to.
    pub const fn new(title: &'static str, rank: u8, [least, usual, most]: [usize; 3]) -> Self {
        Self {
            title,
            rank,
            least,
            usual,
            most,
            is_right_aligned: false,
            is_cut_in_the_middle: false,
            is_whole: false,
        }
    }

    pub const fn to_the_right(self) -> Self {
        Self {
            is_right_aligned: true,
            ..self
        }
    }

    /// It has one of its widths, none between.
    pub const fn whole(self) -> Self {
        Self {
            is_whole: true,
            ..self
        }
    }

    pub const fn cut_in_the_middle(self) -> Self {
        Self {
            is_cut_in_the_middle: true,
            ..self
        }
    }
}

/// One cell of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    /// `None`: the cell before reaches over this column.
    text: Option<Cow<'static, str>>,
    /// Columns that the text takes.
    width: usize,
    style: Style,
}

impl Cell {
    pub fn new(text: impl Into<Cow<'static, str>>) -> Self {
        let text = text.into();
        Self {
            width: width(&text),
            text: Some(text),
            style: Style::new(),
        }
    }

    /// The room of this cell belongs to the one before.
    pub fn joined() -> Self {
        Self::default()
    }

    pub fn style(mut self, style: Style) -> Self {
        self.restyle(style);
        self
    }

    pub const fn restyle(&mut self, style: Style) {
        self.style = style;
    }
}

/// The columns and the width that each has now.
#[derive(Clone, Debug)]
pub(super) struct Columns<const N: usize> {
    columns: [Column; N],
    /// Width that each wants by what it was given to show.
    wanted: [usize; N],
    /// Width that each has; `None`: it went.
    widths: [Option<usize>; N],
    /// Width of the terminal.
    room: Option<usize>,
    color: bool,
}

impl<const N: usize> Columns<N> {
    const GAP: usize = 1;

    pub fn new(columns: [Column; N], room: Option<u16>, color: bool) -> Self {
        let mut this = Self {
            columns,
            wanted: columns.map(|column| column.usual),
            widths: [None; N],
            room: None,
            color,
        };
        this.resize(room);
        this
    }

    /// The terminal has another width.
    pub fn resize(&mut self, room: Option<u16>) {
        self.room = room.map(usize::from);
        self.fit();
    }

    /// Width that the column `index` has now; 0: it went.
    pub fn width(&self, index: usize) -> usize {
        self.widths[index].unwrap_or(0)
    }

    /// Makes room for `cells`; whether a column has another width now.
    pub fn make_room(&mut self, cells: &[Cell; N]) -> bool {
        // In steps, so that columns do not move with each address that is a digit longer.
        const STEP: usize = 13;

        let before = self.widths;
        let mut grown = false;
        for index in 0..N {
            let cell = &cells[index];
            if cell.text.is_none() || cell.width <= self.wanted[index] {
                continue;
            }
            // Of the columns that a cell reaches over, the one that can grow most does.
            let reach = index..index + reach(cells, index);
            let others = |grows: usize| -> usize {
                let others = reach.clone().filter(|other| *other != grows);
                others.map(|other| self.wanted[other] + Self::GAP).sum()
            };
            let most = |other: &usize| self.columns[*other].most;
            let Some(grows) = reach.clone().max_by_key(most) else {
                continue;
            };
            let needed = cell.width.saturating_sub(others(grows));
            let Column { usual, most, .. } = self.columns[grows];
            if needed > self.wanted[grows] && self.wanted[grows] < most {
                let steps = (needed - usual).div_ceil(STEP);
                self.wanted[grows] = (usual + steps * STEP).min(most);
                grown = true;
            }
        }
        if grown {
            self.fit();
        }
        self.widths != before
    }

    /// One line with its end; `line` is emptied first.
    pub fn line(&self, cells: &[Cell; N], line: &mut String) {
        line.clear();
        let mut spaces = 0;
        for (index, (cell, column)) in cells.iter().zip(&self.columns).enumerate() {
            let Some(text) = &cell.text else { continue };
            let span = reach(cells, index);
            let shown = self.widths[index..index + span].iter().flatten();
            let (columns, room) = shown.fold((0, 0), |(n, sum), width| (n + 1, sum + width));
            if columns == 0 {
                continue;
            }
            let room = room + (columns - 1) * Self::GAP;
            let (text, taken) = if self.room.is_none() || cell.width <= room {
                (Cow::Borrowed(&**text), cell.width)
            } else {
                let cut = match column.is_cut_in_the_middle {
                    true => cut_middle(text, room),
                    false => cut_end(text, room),
                };
                let taken = width(&cut);
                (Cow::Owned(cut), taken)
            };
            let padding = room.saturating_sub(taken);
            let (before, after) = match column.is_right_aligned {
                true => (padding, 0),
                false => (0, padding),
            };
            if !text.is_empty() {
                push_spaces(spaces + before, line);
                self.styled(cell.style, &text, line);
                spaces = 0;
            } else {
                spaces += before;
            }
            spaces += after + Self::GAP;
        }
        line.push('\n');
    }

    /// The titles, `first` in place of the first one.
    pub fn header(&self, first: &str, line: &mut String) {
        let mut cells = self
            .columns
            .map(|column| Cell::new(column.title).style(Style::new().bold()));
        cells[0] = Cell::new(first.to_owned()).style(Style::new().bold());
        self.line(&cells, line);
    }

    /// One line of running text with its end.
    pub fn remark(&self, text: &str, style: Style, line: &mut String) {
        line.clear();
        let text = self
            .room
            .map_or_else(|| text.to_owned(), |room| cut_end(text, room));
        self.styled(style, &text, line);
        line.push('\n');
    }

    fn styled(&self, style: Style, text: &str, line: &mut String) {
        if self.color && style != Style::new() {
            super::text::push(line, format_args!("{style}{text}{style:#}"));
        } else {
            line.push_str(text);
        }
    }

    fn fit(&mut self) {
        let Some(room) = self.room else {
            self.widths = self.wanted.map(Some);
            return;
        };
        self.widths = self.columns.map(|column| Some(column.least));
        while self.taken() > room {
            let shown = (0..N).filter(|index| self.widths[*index].is_some());
            let Some(least) = shown.min_by_key(|index| self.columns[*index].rank) else {
                break;
            };
            if self.widths.iter().flatten().count() == 1 {
                self.widths[least] = Some(room);
                break;
            }
            self.widths[least] = None;
        }
        let usual = self.columns.map(|column| column.usual);
        self.grow(usual, room);
        self.grow(self.wanted, room);
    }

    /// Gives the room that is left to the columns, one by one in turn; last to those that take all
    /// that they want or nothing.
    fn grow(&mut self, goals: [usize; N], room: usize) {
        let mut spare = room.saturating_sub(self.taken());
        let shown = self.widths.iter_mut().zip(&self.columns).zip(goals);
        let (mut whole, mut others): (Vec<_>, Vec<_>) = shown
            .filter_map(|((width, column), goal)| Some((column.is_whole, width.as_mut()?, goal)))
            .partition(|(is_whole, ..)| *is_whole);
        loop {
            let before = spare;
            for (_, width, goal) in &mut others {
                if **width < *goal && spare > 0 {
                    **width += 1;
                    spare -= 1;
                }
            }
            if spare == before {
                break;
            }
        }
        for (_, width, goal) in &mut whole {
            let needed = goal.saturating_sub(**width);
            if needed <= spare {
                **width += needed;
                spare -= needed;
            }
        }
    }

    fn taken(&self) -> usize {
        let shown = self.widths.iter().flatten();
        shown.clone().sum::<usize>() + shown.count().saturating_sub(1) * Self::GAP
    }
}

fn push_spaces(count: usize, line: &mut String) {
    const SPACES: &str = "                                ";

    match SPACES.get(..count) {
        Some(spaces) => line.push_str(spaces),
        None => line.extend(std::iter::repeat_n(' ', count)),
    }
}

/// Columns that the cell at `index` reaches over, its own included.
fn reach<const N: usize>(cells: &[Cell; N], index: usize) -> usize {
    let joined = cells[index + 1..]
        .iter()
        .take_while(|next| next.text.is_none());
    1 + joined.count()
}
