"""Questions about actions for MambaVL: made from templates or by a language model, masked, and checked for leaks.

make.py                  from annotation rows to questions; start here
templates.py, prompts.py, writer.py   who writes them: a template, or a language model that is asked in two steps
http_chat.py (endpoint.py), local_chat.py   the language models: any OpenAI-like endpoint, or transformers; chat.py says
                         what they have in common, cache.py keeps their answers
predicted.py             classes that a model predicted, and a bank of questions of train rows
forms.py, masking.py     how class words look in a sentence, and how they are hidden
leaks.py, probe.py       what questions give away
records.py, tokens.py    files of questions, and questions as token numbers
"""
