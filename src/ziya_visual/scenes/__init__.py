"""The self-drawing world: pictures of coloured shapes and a bilingual grammar that speaks about them."""
