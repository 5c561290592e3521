"""The page of the search. Its style and its script are files of their own, as its policy allows no others."""

HTML = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Search photos</title>
<link rel="stylesheet" href="/page.css">
<link rel="icon" href="data:,">
<script src="/page.js" type="module"></script>
</head>
<body>
<a class="skip" href="#results">Skip to the photos</a>
<header>
<h1 class="unseen">Search photos</h1>
<form id="form" role="search">
<div class="box">
<img id="asked" alt="the photo that is searched for" hidden>
<input id="q" type="search" name="q" maxlength="500" autocomplete="off" autofocus
 placeholder="a dog on grass" aria-label="Search for a text">
<button type="submit">Search</button>
<label class="button" for="upload">Photo</label><input id="upload" class="unseen" type="file" accept="image/*">
</div>
<details id="filters"><summary>Filters</summary>
<div class="filters">
<label>Folder <select id="folder" name="folder"><option value="">all</option></select></label>
<label>From <input id="since" type="date" name="since"></label>
<label>to <input id="until" type="date" name="until"></label>
<label><input id="rerank" type="checkbox" checked> Rerank with the bridge</label>
</div>
</details>
</form>
<p id="hint" class="soft"></p>
<p id="status" role="status"></p>
<p id="words" class="words" hidden></p>
</header>
<main>
<p id="none" class="none" hidden></p>
<ol id="results" tabindex="-1" aria-label="Photos"></ol>
<button id="more" type="button" hidden>Show more</button>
</main>
<footer class="soft"><span id="about"></span> Keys: <kbd>/</kbd> types, arrows move, <kbd>Enter</kbd> opens,
<kbd>m</kbd> more like this, <kbd>c</kbd> copies the path.</footer>
<div id="drop" hidden>Drop the photo to find the like of it</div>
</body>
</html>
"""
