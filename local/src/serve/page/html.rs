//! The markup of the page. `maud` escapes every text, and [`Seen`] removes what would change how others look.

use maud::{DOCTYPE, Markup, Render, html};

use crate::output::is_unseen;

/// Rows of a table.
const ROWS: usize = 50;

/// Whether the page loads itself again. It has no script that could leave open what is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refresh {
    /// Every five seconds.
    Often,
    Never,
}

/// A cell of a table.
pub(super) enum Cell {
    /// Short, on one line.
    Word(String),
    /// May break wherever it must.
    Long(String),
    /// Short, with a colour of the style sheet.
    Marked(&'static str, String),
    /// Opens, and shows what else there is.
    More(String, Vec<(&'static str, String)>),
}

/// A text from elsewhere, without what would change the direction or the look of the text around it.
struct Seen<'a>(&'a str);

impl Render for Seen<'_> {
    fn render_to(&self, buffer: &mut String) {
        let seen = |it: char| if is_unseen(it) { '\u{fffd}' } else { it };
        let text: String = self.0.chars().map(seen).collect();
        text.render_to(buffer);
    }
}

/// The whole page around its sections.
pub(super) fn page(
    refresh: Refresh,
    sections: &[(&'static str, &'static str)],
    body: &Markup,
) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                @if refresh == Refresh::Often {
                    meta http-equiv="refresh" content="5";
                }
                meta name="viewport" content="width=device-width";
                title { "scanhook" }
                link rel="stylesheet" href="page.css";
            }
            body {
                header {
                    h1 { "scanhook" }
                    nav {
                        @for (id, title) in sections.iter().skip(1) {
                            a href={ "#" (id) } { (title) } " "
                        }
                        @match refresh {
                            Refresh::Often => {
                                a.refresh href="?still" { "Stop" } " " span { "reloads every 5 seconds" }
                            }
                            Refresh::Never => {
                                a.refresh href="./" { "Resume" } " " span { "paused" }
                            }
                        }
                    }
                }
                (body)
            }
        }
    };
    page.into_string()
}

pub(super) fn head((id, title): (&'static str, &'static str)) -> Markup {
    html! { h2 id=(id) { (title) } }
}

pub(super) fn note(text: &str) -> Markup {
    html! { p.none { (text) } }
}

pub(super) fn facts(facts: &[(&'static str, String)]) -> Markup {
    html! { dl.facts { (pairs(facts)) } }
}

fn pairs(pairs: &[(&'static str, String)]) -> Markup {
    html! {
        @for (name, value) in pairs {
            div { dt { (name) } dd { (Seen(value)) } }
        }
    }
}

pub(super) fn table<const N: usize>(
    heads: &[&'static str; N],
    rows: impl Iterator<Item = [Cell; N]>,
    none: &'static str,
) -> Markup {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return note(none);
    }
    let shown: Vec<_> = rows.by_ref().take(ROWS).collect();
    let left = rows.count();
    html! {
        div.table {
            table {
                tr { @for head in heads { th { (head) } } }
                @for row in &shown {
                    tr { @for it in row { (cell(it)) } }
                }
            }
        }
        @if left > 0 {
            p.none { "And " (left) " before these." }
        }
    }
}

fn cell(cell: &Cell) -> Markup {
    html! {
        @match cell {
            Cell::Word(text) => td { (Seen(text)) },
            Cell::Long(text) => td.long { (Seen(text)) },
            Cell::Marked(class, text) => td class=(class) { (Seen(text)) },
            Cell::More(text, more) => td.long {
                details { summary { (Seen(text)) } dl { (pairs(more)) } }
            },
        }
    }
}

const HEIGHT: usize = 120;

const WIDTH: usize = 30;

/// Columns of counts, the latest at the right, with a class and a colour for each of the counts.
pub(super) fn plot<const N: usize, const COLUMNS: usize>(
    classes: &[&'static str; N],
    columns: &[[usize; N]; COLUMNS],
) -> Markup {
    let sums = columns.iter().map(|it| it.iter().sum::<usize>());
    let most = sums.max().unwrap_or(0);
    let view = format!("0 0 {} {HEIGHT}", COLUMNS * WIDTH);
    let totals = (0..N).map(|index| columns.iter().filter_map(|it| it.get(index)).sum::<usize>());
    html! {
        p.none { (most) " an hour at most" }
        svg viewBox=(view) preserveAspectRatio="none" role="img" {
            title { "Scans an hour, " (most) " at most" }
            @for (place, column) in columns.iter().enumerate() {
                (bars(place, classes, column, most))
            }
        }
        p.axis {
            @for text in ["24 hours ago", "18", "12", "6", "now"] { span { (text) } }
        }
        ul.key {
            @for (class, total) in classes.iter().zip(totals) {
                li class=(class) { (class) " " (total) }
            }
        }
    }
}

fn bars<const N: usize>(
    place: usize,
    classes: &[&'static str; N],
    column: &[usize; N],
    most: usize,
) -> Markup {
    let counts = classes.iter().zip(column).filter(|it| *it.1 > 0);
    let bars = counts.scan(0, |below, (class, count)| {
        let height = (count * HEIGHT).div_ceil(most.max(1));
        *below += height;
        Some((class, count, HEIGHT.saturating_sub(*below), height))
    });
    html! {
        @for (class, count, top, height) in bars {
            rect class=(class) x=(place * WIDTH + 2) y=(top) width=(WIDTH - 4) height=(height) {
                title { (count) " " (class) }
            }
        }
    }
}
