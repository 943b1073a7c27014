//! The results page. Each part of the bench replaces the text between its two marks and leaves the rest alone.

use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A Markdown table.
#[derive(Clone, Debug)]
pub struct MarkdownTable {
    columns: usize,
    text: String,
}

impl MarkdownTable {
    /// An empty table. All columns but the first are right-aligned.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        let mut text = line(columns);
        let rule = std::iter::once("---").chain(std::iter::repeat("--:"));
        let rule: Vec<&str> = rule.take(columns.len()).collect();
        text.push_str(&line(&rule));
        Self {
            columns: columns.len(),
            text,
        }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// When the row has more or fewer cells than the table has columns.
    pub fn row(&mut self, cells: &[&dyn Display]) -> Result<()> {
        ensure!(
            cells.len() == self.columns,
            "{} cells in {} columns",
            cells.len(),
            self.columns
        );
        let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
        let cells: Vec<&str> = cells.iter().map(String::as_str).collect();
        self.text.push_str(&line(&cells));
        Ok(())
    }
}

impl Display for MarkdownTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn line(cells: &[&str]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

/// The results page.
#[derive(Debug)]
pub struct ResultsPage(PathBuf);

impl ResultsPage {
    /// The page at this path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Writes the results of a part between its marks.
    ///
    /// # Errors
    /// When the page or the marks are missing.
    pub fn write(&self, part: &str, text: &str) -> Result<()> {
        let path = self.0.display();
        let page = std::fs::read_to_string(&self.0).with_context(|| format!("read {path}"))?;
        let page = with_part(&page, part, text).with_context(|| path.to_string())?;
        std::fs::write(&self.0, page).with_context(|| format!("write {path}"))
    }
}

fn with_part(page: &str, part: &str, text: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {part} -->\n"), format!("<!-- /{part} -->"));
    let (before, rest) = page
        .split_once(&begin)
        .with_context(|| format!("the page has no mark {begin:?}"))?;
    let (_, after) = rest
        .split_once(&end)
        .with_context(|| format!("the page has no mark {end:?}"))?;
    let mut page = before.to_owned();
    write!(page, "{begin}\n{}\n\n{end}{after}", text.trim())?;
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str =
        "# Page\n\n<!-- cold -->\nold\n<!-- /cold -->\n\nText.\n<!-- warm -->\n<!-- /warm -->\n";

    #[test]
    fn results_replace_the_text_between_the_marks() -> Result<()> {
        let once = with_part(PAGE, "cold", "new\n")?;
        assert!(once.starts_with("# Page\n\n<!-- cold -->\n\nnew\n\n<!-- /cold -->\n\nText.\n"));
        assert_eq!(with_part(&once, "cold", "new")?, once);
        let both = with_part(&once, "warm", "too")?;
        assert!(both.contains("new") && both.contains("<!-- warm -->\n\ntoo\n\n<!-- /warm -->"));
        Ok(())
    }

    #[test]
    fn a_page_without_the_marks_is_an_error() {
        assert!(with_part(PAGE, "scale", "new").is_err());
        assert!(with_part("<!-- cold -->\n", "cold", "new").is_err());
    }

    #[test]
    fn a_table_has_one_line_per_row() -> Result<()> {
        let mut table = MarkdownTable::new(&["function", "ms"]);
        table.row(&[&"hello", &1.5])?;
        assert_eq!(
            table.to_string(),
            "| function | ms |\n| --- | --: |\n| hello | 1.5 |\n"
        );
        assert!(table.row(&[&"too few"]).is_err());
        Ok(())
    }
}
