//! The markup of the page. What is `&'static` is ours; all other text is escaped.

use std::fmt::Write as _;

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

/// A page in the making.
pub(super) struct Html(String);

impl Html {
    pub(super) fn begin(refresh: Refresh, sections: &[(&'static str, &'static str)]) -> Self {
        let mut html = Self(String::new());
        html.markup("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
        if refresh == Refresh::Often {
            html.markup("<meta http-equiv=\"refresh\" content=\"5\">");
        }
        html.markup(
            "<meta name=\"viewport\" content=\"width=device-width\"><title>scanhook</title>\
             <link rel=\"stylesheet\" href=\"page.css\"></head><body>\n<header><h1>scanhook</h1>\n<nav>",
        );
        for (id, title) in sections.iter().skip(1) {
            html.markup("<a href=\"#");
            html.markup(id);
            html.markup("\">");
            html.markup(title);
            html.markup("</a> ");
        }
        html.markup(match refresh {
            Refresh::Often => {
                "<a class=\"refresh\" href=\"?still\">Stop</a> <span>reloads every 5 seconds</span>"
            }
            Refresh::Never => {
                "<a class=\"refresh\" href=\"./\">Go on</a> <span>stands still</span>"
            }
        });
        html.markup("</nav></header>\n");
        html
    }

    pub(super) fn end(mut self) -> String {
        self.markup("</body></html>\n");
        self.0
    }

    fn markup(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    fn text(&mut self, text: &str) {
        for character in text.chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // What would change the direction or the look of the text around it.
                it if is_unseen(it) => self.0.push('\u{fffd}'),
                it => self.0.push(it),
            }
        }
    }

    pub(super) fn head(&mut self, (id, title): (&'static str, &'static str)) {
        self.markup("<h2 id=\"");
        self.markup(id);
        self.markup("\">");
        self.markup(title);
        self.markup("</h2>\n");
    }

    pub(super) fn note(&mut self, text: &'static str) {
        self.markup("<p class=\"none\">");
        self.markup(text);
        self.markup("</p>\n");
    }

    pub(super) fn facts(&mut self, facts: &[(&'static str, String)]) {
        self.markup("<dl class=\"facts\">");
        self.pairs(facts);
        self.markup("</dl>\n");
    }

    fn pairs(&mut self, pairs: &[(&'static str, String)]) {
        for (name, value) in pairs {
            self.markup("<div><dt>");
            self.markup(name);
            self.markup("</dt><dd>");
            self.text(value);
            self.markup("</dd></div>");
        }
    }

    pub(super) fn table<const N: usize>(
        &mut self,
        heads: &[&'static str; N],
        rows: impl Iterator<Item = [Cell; N]>,
        none: &'static str,
    ) {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return self.note(none);
        }
        self.markup("<div class=\"table\"><table><tr>");
        for head in heads {
            self.markup("<th>");
            self.markup(head);
            self.markup("</th>");
        }
        self.markup("</tr>\n");
        for row in rows.by_ref().take(ROWS) {
            self.markup("<tr>");
            for cell in &row {
                self.cell(cell);
            }
            self.markup("</tr>\n");
        }
        self.markup("</table></div>\n");
        let left = rows.count();
        if left > 0 {
            // Writing to a string can't fail.
            let _ = writeln!(self.0, "<p class=\"none\">And {left} before these.</p>");
        }
    }

    fn cell(&mut self, cell: &Cell) {
        match cell {
            Cell::Word(text) => {
                self.markup("<td>");
                self.text(text);
            }
            Cell::Long(text) => {
                self.markup("<td class=\"long\">");
                self.text(text);
            }
            Cell::Marked(class, text) => {
                self.markup("<td class=\"");
                self.markup(class);
                self.markup("\">");
                self.text(text);
            }
            Cell::More(text, more) => {
                self.markup("<td class=\"long\"><details><summary>");
                self.text(text);
                self.markup("</summary><dl>");
                self.pairs(more);
                self.markup("</dl></details>");
            }
        }
        self.markup("</td>");
    }

    /// Columns of counts, the latest at the right, with a class and a colour for each of the counts.
    pub(super) fn plot<const N: usize, const COLUMNS: usize>(
        &mut self,
        classes: &[&'static str; N],
        columns: &[[usize; N]; COLUMNS],
    ) {
        const HEIGHT: usize = 120;
        const WIDTH: usize = 30;
        let sums = columns.iter().map(|it| it.iter().sum::<usize>());
        let most = sums.max().unwrap_or(0);
        let _ = write!(
            self.0,
            "<p class=\"none\">{most} an hour at most</p>\n\
             <svg viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\"><title>Scans an hour, {most} at most</title>",
            COLUMNS * WIDTH,
        );
        for (place, column) in columns.iter().enumerate() {
            let mut below = 0;
            for (class, count) in classes.iter().zip(column).filter(|it| *it.1 > 0) {
                let height = (count * HEIGHT).div_ceil(most.max(1));
                let top = HEIGHT.saturating_sub(below + height);
                let _ = write!(
                    self.0,
                    "<rect class=\"{class}\" x=\"{}\" y=\"{top}\" width=\"{}\" height=\"{height}\"><title>{count} {class}</title></rect>",
                    place * WIDTH + 2,
                    WIDTH - 4
                );
                below += height;
            }
        }
        self.markup(
            "</svg>\n<p class=\"axis\"><span>24 hours ago</span><span>18</span><span>12</span><span>6</span><span>now</span></p>\n\
             <ul class=\"key\">",
        );
        for (index, class) in classes.iter().enumerate() {
            let total: usize = columns.iter().filter_map(|it| it.get(index)).sum();
            let _ = write!(self.0, "<li class=\"{class}\">{class} {total}</li>");
        }
        self.markup("</ul>\n");
    }
}
