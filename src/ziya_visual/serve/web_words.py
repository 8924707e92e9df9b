"""The page's own words in English and Chinese; the browser's language chooses."""

from __future__ import annotations

WORDS = {
    "chat": ("Chat", "对话"),
    "ask": ("Ask about pictures; paste, drop or upload them", "就图片提问；可粘贴、拖放或上传"),
    "dialogue": ("Dialogue", "对话记录"),
    "look": ("Where it looks", "关注区域"),
    "picture": ("Picture", "图片"),
    "question": ("Question", "问题"),
    "show": ("Show", "显示"),
    "seen": ("Red is where the Q-Former looks", "红色为 Q-Former 关注之处"),
    "find": ("Find pictures", "图片检索"),
    "pictures": ("Pictures to search", "待检索的图片"),
    "text": ("What they show", "图片内容"),
    "search": ("Search", "检索"),
    "best": ("The best first", "按匹配程度排列"),
    "compare": ("Side by side", "并排比较"),
    "left": ("Left", "左"),
    "right": ("Right", "右"),
    "left_better": ("Left is better", "左边更好"),
    "right_better": ("Right is better", "右边更好"),
    "tie": ("Equally good", "不相上下"),
    "votes": ("Votes so far", "已有票数"),
}
EN = {key: en for key, (en, _) in WORDS.items()}
ZH = {key: zh for key, (_, zh) in WORDS.items()}
