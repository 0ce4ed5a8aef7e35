use quick_xml::Writer;
use quick_xml::events::{BytesEnd, BytesStart, BytesText, Event};

/// An XML element: attributes, and either text or children.
#[derive(Debug)]
pub(super) struct Element {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    text: Option<String>,
    children: Vec<Element>,
}

impl Element {
    /// Returns an element without attributes, text or children.
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, attributes: Vec::new(), text: None, children: Vec::new() }
    }

    /// Returns the element with one more attribute.
    pub(super) fn attr(mut self, name: &'static str, value: impl ToString) -> Self {
        self.attributes.push((name, value.to_string()));
        self
    }

    /// Returns the element with `text` inside.
    pub(super) fn text(mut self, text: impl ToString) -> Self {
        self.text = Some(text.to_string());
        self
    }

    /// Returns the element with one more child.
    pub(super) fn child(mut self, child: Element) -> Self {
        self.children.push(child);
        self
    }

    /// Returns the element with more children.
    pub(super) fn children(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.children.extend(children);
        self
    }

    /// Returns the element as a document, indented by two spaces, with a final newline.
    pub(super) fn to_document(&self) -> String {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        // OK to ignore: a vector takes every write.
        let _ = self.write(&mut writer);
        let mut document = String::from_utf8(writer.into_inner()).unwrap_or_default();
        document.push('\n');
        document
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> std::io::Result<()> {
        let mut start = BytesStart::new(self.name);
        for (name, value) in &self.attributes {
            start.push_attribute((*name, value.as_str()));
        }
        if self.text.is_none() && self.children.is_empty() {
            return writer.write_event(Event::Empty(start));
        }
        writer.write_event(Event::Start(start))?;
        if let Some(text) = &self.text {
            writer.write_event(Event::Text(BytesText::new(text)))?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::Element;

    #[test]
    fn text_and_attributes_are_escaped() {
        let element = Element::new("a").attr("b", "<&'\">").child(Element::new("c").text("x & <y>")).child(Element::new("d"));
        let document = element.to_document();
        assert_eq!(document, "<a b=\"&lt;&amp;&apos;&quot;&gt;\">\n  <c>x &amp; &lt;y&gt;</c>\n  <d/>\n</a>\n");
    }
}
